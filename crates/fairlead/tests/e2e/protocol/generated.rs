//! Generated messages, directly and through the gateway: unknown members, unknown content, odd spellings. Within an era
//! every byte arrives; across eras what differs is what is declared here and nothing else.
//!
//! The generator is seeded: a failure names its seed and its case. `PROPTEST_CASES` makes more of them.

use std::env;

use fairlead_testkit::{McpClient, Script, ScriptedServer, Step, ToolScript};
use serde_json::Value;

use super::{
    direct,
    fidelity::{ID, META, TOKEN, as_sent, send},
};
use crate::support::{Gateway, NEWEST_LEGACY};

const SEED: u64 = 0x005e_ed0f_fa1e;
/// Cases of each pair of eras, unless the environment wants more.
const CASES: usize = 24;
/// How deep generated values go.
const DEPTH: u32 = 3;

/// SplitMix64.
struct Dice {
    state: u64,
    /// Whether numbers may be such that no parser takes them; then only bytes are compared.
    wild: bool,
}

impl Dice {
    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn space(&mut self) -> &'static str {
        self.pick(&["", "", "", "", " ", "\t", "  "])
    }

    fn string(&mut self) -> String {
        const PARTS: [&str; 14] = [
            "a",
            "name",
            "_meta",
            "\\u00e4",
            "ä",
            "\\/",
            "🦀",
            "\\ud83e\\udd80",
            "\\\"",
            "\\\\",
            " ",
            "\\n",
            "id",
            "\\u0000",
        ];
        let parts = self.below(5);
        format!("\"{}\"", (0..parts).map(|_| self.pick(&PARTS)).collect::<String>())
    }

    fn number(&mut self) -> String {
        const NUMBERS: [&str; 9] =
            ["0", "-0", "1.10", "1E2", "0.1e-7", "12345678901234567890123", "-1.0", "7", "1e+400"];
        let numbers = if self.wild { &NUMBERS[..] } else { &NUMBERS[..NUMBERS.len() - 1] };
        self.pick(numbers).to_owned()
    }

    fn value(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 | 2 => self.number(),
            3 | 4 => self.string(),
            5 => {
                let items: Vec<_> = (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
                format!("[{}{}]", self.space(), items.join(&format!("{},", self.space())))
            }
            _ => {
                let count = self.below(4);
                format!("{{{}{}}}", self.space(), self.members(count, "", depth - 1))
            }
        }
    }

    /// Members; their keys begin so, and may come twice.
    fn members(&mut self, count: usize, prefix: &str, depth: u32) -> String {
        let member = |dice: &mut Self| {
            let key = dice.string();
            format!("\"{prefix}{}{}:{}{}", &key[1..], dice.space(), dice.space(), dice.value(depth))
        };
        let members: Vec<_> = (0..count).map(|_| member(self)).collect();
        members.join(&format!("{},", self.space()))
    }

    /// At least one member nobody knows.
    fn unknown(&mut self) -> String {
        let count = 1 + self.below(3);
        self.members(count, "x-", DEPTH)
    }

    /// A content block of a type there is, or of one there is not.
    fn content(&mut self) -> String {
        let known = self.pick(&[
            r#""type":"text","text":"hi""#,
            r#""type":"image","data":"","mimeType":"image/png""#,
            r#""type":"resource_link","uri":"file:///a","name":"a""#,
            r#""type":"resource","resource":{"uri":"file:///a","text":"t"}"#,
            r#""type":"hologram","frames":[1.0]"#,
            r#""type":"x-\u00e4""#,
        ]);
        format!("{{{known},{}}}", self.unknown())
    }
}

/// What is generated for one case.
struct Case {
    name: String,
    /// A tool as it is listed.
    item: String,
    /// Its result without the era's own members, and without the braces.
    result: String,
    /// Parameters of a notification before the result.
    told: String,
    /// Members of the client's parameters, `arguments` among them.
    asked: String,
    /// Members of the client's `_meta`.
    meta: String,
}

fn cases(seed: u64) -> Vec<Case> {
    let more = env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<usize>().ok());
    let count = more.map_or(CASES, |cases| (cases / 16).max(CASES));
    let mut dice = Dice { state: seed, wild: true };
    let case = |number: usize| {
        let name = format!("g{number}");
        dice.wild = true;
        let schema = format!(r#"{{"type":"object",{}}}"#, dice.unknown());
        let blocks: Vec<_> = (0..dice.below(3)).map(|_| dice.content()).collect();
        let structured = dice.unknown();
        let item = format!(r#"{{{},"name":"{name}","inputSchema":{schema}}}"#, dice.unknown());
        let result = format!(
            r#"{},"content":[{}],"structuredContent":{{{structured}}},{}"#,
            dice.unknown(),
            blocks.join(","),
            dice.unknown()
        );
        let told = format!("{{{}}}", dice.unknown());
        // The scripted server reads what it is sent.
        dice.wild = false;
        Case {
            item,
            result,
            told,
            asked: format!(r#"{},"arguments":{{{}}}"#, dice.unknown(), dice.unknown()),
            meta: dice.unknown(),
            name,
        }
    };
    (0..count).map(case).collect()
}

/// A server that gives every case its result; a modern one says in the middle of it what it is.
fn script(cases: &[Case], modern: bool) -> Script {
    let mut script = if modern { Script::modern() } else { Script::legacy() }.tools(0).resources_and_prompts(1, 1);
    let items: Vec<_> = cases.iter().map(|case| case.item.as_str()).collect();
    let kind = if modern { r#""resultType":"complete","ttlMs":0,"cacheScope":"private","# } else { "" };
    script = script.result("tools/list", &format!(r#"{{{kind}"tools":[{}]}}"#, items.join(",")));
    for case in cases {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/acme","params":{}}}"#, case.told);
        let result = format!("{{{}{}}}", if modern { r#""resultType":"complete","# } else { "" }, case.result);
        script = script.tool(ToolScript::new(&case.name).step(Step::Raw { text }).result(&result));
    }
    script
}

/// The client's message of a case for one method.
fn message(case: &Case, method: &str, modern: bool) -> (String, String) {
    let (named, name) = match method {
        "tools/call" => (format!(r#""name":"{}","#, case.name), case.name.clone()),
        "prompts/get" => (r#""name":"prompt_0","#.to_owned(), "prompt_0".to_owned()),
        "resources/read" => (r#""uri":"test://resource/0","#.to_owned(), "test://resource/0".to_owned()),
        "completion/complete" => {
            let who = r#""ref":{"type":"ref/prompt","name":"prompt_0"},"argument":{"name":"who","value":"v"},"#;
            (who.to_owned(), String::new())
        }
        _ => (String::new(), String::new()),
    };
    let meta = if modern { format!("{META},") } else { String::new() };
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{ID},"method":"{method}","params":{{{named}{},"_meta":{{{meta}"progressToken":{TOKEN},{}}}}}}}"#,
        case.asked, case.meta
    );
    (name, body)
}

const METHODS: [&str; 5] = ["tools/call", "prompts/get", "resources/read", "completion/complete", "acme/do"];

#[tokio::test]
async fn generated_messages_keep_their_bytes_within_an_era() {
    let cases = cases(SEED);
    for modern in [false, true] {
        let server = ScriptedServer::start(script(&cases, modern)).await;
        let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
        let direct = direct(&server, modern).await;
        let path = "/servers/a/mcp";
        let through = if modern { gateway.modern(path) } else { gateway.legacy(path, NEWEST_LEGACY).await };
        for case in &cases {
            let what = format!("seed {SEED:#x}, case {}, modern: {modern}", case.name);
            let kind = if modern { r#""resultType":"complete","# } else { "" };
            let result = format!("{{{kind}{}}}", case.result);
            server.change(|script| {
                for method in &METHODS[1..] {
                    script.results.insert((*method).to_owned(), result.clone());
                }
            });
            for method in METHODS {
                let (name, body) = message(case, method, modern);
                let expected = send(&direct, modern, method, &name, &body).await;
                let came = send(&through, modern, method, &name, &body).await;
                assert_eq!(came, expected, "{method}, {what}");
                assert_eq!(came.len(), if method == "tools/call" { 2 } else { 1 }, "{method}, {what}");
                let received = server.received_method(method).pop().unwrap().body;
                let sent = String::from_utf8_lossy(&received).into_owned();
                assert_eq!(sent.trim_end(), as_sent(&body, &received), "{method}, {what}");
            }
            server.clear_received();
        }
        items_are_listed(&through, &cases).await;
    }
}

/// Every tool is listed byte for byte.
async fn items_are_listed(client: &McpClient, cases: &[Case]) {
    let answer = client.request("tools/list", serde_json::json!({})).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    for case in cases {
        assert!(text.contains(&case.item), "seed {SEED:#x}: {} is not in {text}", case.item);
    }
}

/// What a modern client finds in a result of a legacy server before everything else.
const ADDED: [&str; 4] = ["_meta", "cacheScope", "resultType", "ttlMs"];

/// The result in a frame, as text.
fn result_of(frame: &str) -> &str {
    let start = frame.find(r#""result":"#).map(|at| at + r#""result":"#.len());
    let start = start.unwrap_or_else(|| panic!("no result in {frame}"));
    frame[start..].strip_suffix('}').unwrap()
}

#[tokio::test]
async fn across_eras_only_what_is_declared_differs() {
    let cases = cases(SEED + 1);
    for modern_server in [false, true] {
        let server = ScriptedServer::start(script(&cases, modern_server)).await;
        let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
        let path = "/servers/a/mcp";
        let client = if modern_server { gateway.legacy(path, NEWEST_LEGACY).await } else { gateway.modern(path) };
        for case in &cases {
            let what = format!("seed {:#x}, case {}, modern server: {modern_server}", SEED + 1, case.name);
            let own = if modern_server { r#""resultType":"complete","ttlMs":7,"cacheScope":"public","# } else { "" };
            let result = format!("{{{own}{}}}", case.result);
            server.change(|script| {
                for method in &METHODS[1..] {
                    script.results.insert((*method).to_owned(), result.clone());
                }
            });
            // A method nobody knows has no meaning in another era, so it does not cross.
            for method in &METHODS[..4] {
                let (name, body) = message(case, method, !modern_server);
                let came = send(&client, !modern_server, method, &name, &body).await;
                let (answer, told) = came.split_last().unwrap();
                let result = result_of(answer);
                match modern_server {
                    true => assert_eq!(result, format!("{{{}}}", case.result), "{method}, {what}"),
                    false => {
                        let kept = result.strip_suffix(&format!("{}}}", case.result));
                        let kept = kept.unwrap_or_else(|| panic!("{method}, {what}: {result}"));
                        let added: Value = serde_json::from_str(&format!("{}}}", kept.trim_end_matches(','))).unwrap();
                        let keys: Vec<_> = added.as_object().unwrap().keys().map(String::as_str).collect();
                        let expected: &[&str] =
                            if *method == "resources/read" { &ADDED } else { &["_meta", "resultType"] };
                        assert_eq!(keys, expected, "{method}, {what}");
                    }
                }
                let notice = format!(r#"{{"jsonrpc":"2.0","method":"notifications/acme","params":{}}}"#, case.told);
                let expected = if *method == "tools/call" { vec![notice] } else { Vec::new() };
                assert_eq!(told, expected, "{method}, {what}");
                let received = server.received_method(method).pop().unwrap();
                let sent = String::from_utf8_lossy(&received.body).into_owned();
                assert!(sent.contains(&case.asked), "{method}, {what}: {sent}");
                assert!(sent.contains(&case.meta), "{method}, {what}: {sent}");
                assert_eq!(sent.contains("clientCapabilities"), modern_server, "{method}, {what}: {sent}");
            }
            server.clear_received();
        }
        items_are_listed(&client, &cases).await;
    }
}
