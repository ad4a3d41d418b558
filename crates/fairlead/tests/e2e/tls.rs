//! TLS towards clients and towards servers: every transport works over it, the certificate is changed while calls are
//! made, and what is no handshake, or takes too long, ends.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use fairlead_testkit::{
    AnyClient, AnyClientOptions, Authority, Door, Good, Identity, McpClient, Reply, Script, ScriptedServer, ToolScript,
    Trust, Way,
};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, PATIENCE, cli, eventually, eventually_some, get, rows};

/// What is shown for 127.0.0.1.
const LOOPBACK: &[&str] = &["127.0.0.1", "localhost"];

/// A directory with a certificate, its key, and whose it is.
pub(crate) struct Files {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fairlead-tls-").tempdir().unwrap();
        let files = Self { dir, authority: Authority::new() };
        fs::write(files.authority_path(), files.authority.certificate()).unwrap();
        files.renew();
        files
    }

    pub(crate) fn authority_path(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    fn sign(&self) -> Identity {
        self.authority.sign(LOOPBACK, Good::Now)
    }

    fn renew(&self) {
        self.sign().write(self.dir.path());
    }

    /// The gateway's configuration with `more` under `tls`.
    pub(crate) fn yaml(&self, more: &str, rest: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "listen: {{ address: \"127.0.0.1:0\", tls: {{ certificate: \"{dir}/server.pem\", key: \"{dir}/server.key\"{more} }} }}\n{rest}"
        )
    }
}

fn address(gateway: &Gateway) -> SocketAddr {
    gateway.url("").strip_prefix("https://").expect("the gateway says `https`").parse().unwrap()
}

fn server_yaml(server: &ScriptedServer) -> String {
    format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())
}

fn script() -> Script {
    Script::legacy().tools(1).tool(ToolScript::new("works").progress(3, 20)).resources_and_prompts(1, 1)
}

async fn connect(gateway: &Gateway, way: Way, version: &str, trust: Trust) -> AnyClient {
    let door = match way {
        Way::Http => "/servers/a/mcp",
        Way::Sse => "/servers/a/sse",
        Way::WebSocket => "/servers/a/ws",
    };
    let options = AnyClientOptions {
        way,
        url: gateway.url(door),
        version: version.to_owned(),
        capabilities: json!({}),
        answering: Arc::new(|_, _| Reply::Result(json!({}))),
        trust: Some(trust),
    };
    AnyClient::connect(options).await.unwrap_or_else(|error| panic!("{way:?} {version}: {error:#}"))
}

/// The certificate that is shown now.
async fn shown(gateway: &Gateway, trust: &Trust) -> Vec<u8> {
    let stream = trust.connect(address(gateway), "127.0.0.1").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn handshakes(gateway: &Gateway, outcome: &str) -> u64 {
    let (_, text) = get(&gateway.admin_url("/metrics")).await;
    let line = format!("fairlead_tls_handshakes_total{{outcome=\"{outcome}\"}} ");
    text.lines()
        .find_map(|text| text.strip_prefix(&line)?.parse().ok())
        .unwrap_or_else(|| panic!("no `{line}`:\n{text}"))
}

#[tokio::test]
async fn every_transport_of_clients_works_over_tls() {
    let (files, server) = (Files::new(), ScriptedServer::start(script()).await);
    let gateway = Gateway::start(&files.yaml("", &server_yaml(&server))).await;
    for (way, version) in [
        (Way::Http, NEWEST_LEGACY),
        (Way::Http, MODERN),
        (Way::Sse, "2024-11-05"),
        (Way::WebSocket, NEWEST_LEGACY),
        (Way::WebSocket, MODERN),
    ] {
        let client = connect(&gateway, way, version, files.authority.trust()).await;
        let result = client.call("tool_0", json!({"text": "x".repeat(100_000)})).await.unwrap();
        assert_eq!(result["structuredContent"]["arguments"]["text"].as_str().map(str::len), Some(100_000), "{way:?}");
        client.call("works", json!({})).await.unwrap_or_else(|error| panic!("{way:?} {version}: {error:#}"));
    }
    // What operators look at is not secured by it.
    assert!(gateway.admin_url("").starts_with("http://"));
    assert!(handshakes(&gateway, "completed").await >= 5);
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    assert!(metrics.contains("fairlead_tls_certificate_expires_seconds 64060588800"), "the year 4000:\n{metrics}");
}

#[tokio::test]
async fn http_2_is_spoken_with_those_who_agree_to_it_under_any_name() {
    let files = Files::new();
    let gateway = Gateway::start(&files.yaml("", "servers: {}\n")).await;
    for (offered, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let trust = files.authority.trust().offering(offered);
        let stream = trust.connect(address(&gateway), "localhost").await.unwrap();
        let protocol = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        assert_eq!(protocol.as_deref(), agreed);
        let io = TokioIo::new(stream);
        let uri = format!("https://{}/health/live", address(&gateway));
        let request =
            Request::get(uri).header("host", address(&gateway).to_string()).body(Empty::<&[u8]>::new()).unwrap();
        let response = if agreed == Some("h2") {
            let (mut sender, serving) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(serving);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, serving) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(serving);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{\"status\":\"ok\"}");
    }
    // The server shows what it has, whatever it was called: whether that is good enough is for the client to say.
    let error = files.authority.trust().connect(address(&gateway), "elsewhere.test").await.err().unwrap();
    assert!(format!("{error:#}").contains("not valid for name"), "{error:#}");
    // One that trusts somebody else does not come in either, and the gateway is none the worse for it.
    assert!(Authority::new().trust().connect(address(&gateway), "localhost").await.is_err());
    assert!(!shown(&gateway, &files.authority.trust()).await.is_empty());
}

/// The hello of a client that speaks nothing newer than TLS 1.1, with the suites of then.
fn hello_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    // One extension, the signature algorithms: without it the hello would be refused for that.
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut handshake = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    handshake.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(handshake.len()).unwrap()];
    record.extend(handshake);
    record
}

/// Everything that comes on a raw connection after these bytes.
async fn answer_to(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address(gateway)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset ends it as well as a proper end does.
    let _ = reading.expect("the connection is closed");
    answer
}

#[tokio::test]
async fn what_is_no_handshake_of_today_is_turned_away() {
    let files = Files::new();
    let gateway = Gateway::start(&files.yaml(", handshake_timeout: 1s", "servers: {}\n")).await;
    // An alert: fatal, `protocol_version`.
    let refused = answer_to(&gateway, &hello_1_1()).await;
    assert!(refused.len() == 7 && refused[0] == 21 && refused.ends_with(&[2, 70]), "{refused:?}");
    let plain = answer_to(&gateway, b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}").await;
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.starts_with("HTTP/1.1 400 ") && plain.contains("use https"), "{plain}");
    assert_eq!(answer_to(&gateway, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, b"");
    assert_eq!(answer_to(&gateway, b"\0\xff garbage").await, b"");
    // These say nothing, and not enough.
    assert_eq!(answer_to(&gateway, b"").await, b"");
    assert_eq!(answer_to(&gateway, &hello_1_1()[..20]).await, b"");
    for (outcome, count) in [("failed", 1), ("plain", 3), ("slow", 2), ("completed", 0)] {
        // Counted once the connection is given up, which its client may hear of first.
        eventually_some(PATIENCE, outcome, async || (handshakes(&gateway, outcome).await == count).then_some(())).await;
    }
}

#[tokio::test]
async fn one_that_says_nothing_keeps_no_place_from_others() {
    let files = Files::new();
    let more = ", handshake_timeout: 3s, max_handshakes: 1";
    let gateway = Gateway::start(&files.yaml(more, "workers: 1\nservers: {}\n")).await;
    let mut slow = TcpStream::connect(address(&gateway)).await.unwrap();
    slow.write_all(&hello_1_1()[..20]).await.unwrap();
    // There is one place, and it is for whoever has said hello.
    let trust = files.authority.trust();
    for _ in 0..3 {
        trust.connect(address(&gateway), "localhost").await.unwrap();
    }
    eventually_some(PATIENCE, "its time is up", async || (handshakes(&gateway, "slow").await == 1).then_some(())).await;
    drop(slow);
}

#[tokio::test]
async fn a_certificate_is_renewed_under_load_and_a_bad_one_is_not_taken() {
    let (files, server) = (Files::new(), ScriptedServer::start(script()).await);
    let gateway = Gateway::start(&files.yaml("", &server_yaml(&server))).await;
    rows::until_listed(&gateway, "a").await;
    let trust = files.authority.trust();
    // Every request of this client is a connection, and a handshake, of its own; the socket is one all along.
    let kept = connect(&gateway, Way::WebSocket, NEWEST_LEGACY, trust.clone()).await;
    let client = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE).trusting(trust.clone()).modern(MODERN);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut calling = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (client, stopped) = (client.clone(), stopped.clone());
        calling.spawn(async move {
            let mut calls = 0;
            while !*stopped.borrow() {
                client
                    .call("a__tool_0", json!({}))
                    .await
                    .unwrap_or_else(|error| panic!("after {calls} calls: {error:#}"));
                calls += 1;
            }
            calls
        });
    }
    let first = shown(&gateway, &trust).await;
    let mut before = first.clone();
    for _ in 0..3 {
        files.renew();
        // Seen by itself.
        before = eventually_some(PATIENCE, "another certificate", async || {
            Some(shown(&gateway, &trust).await).filter(|now| *now != before)
        })
        .await;
    }
    // On a signal, too; and what cannot be used changes nothing.
    for bad in [
        Identity { certificate: "nothing".to_owned(), ..files.sign() },
        Identity { key: files.sign().key, ..files.sign() },
        files.authority.sign(LOOPBACK, Good::Past),
        files.authority.sign(LOOPBACK, Good::Future),
    ] {
        let refused = gateway.log().matches("nothing was changed").count();
        bad.write(files.dir.path());
        gateway.signal(nix::sys::signal::Signal::SIGHUP);
        eventually(PATIENCE, "a refusal", || gateway.log().matches("nothing was changed").count() > refused).await;
        assert_eq!(shown(&gateway, &trust).await, before);
    }
    assert!(gateway.log().contains("FL-1406") && gateway.log().contains("the certificate has expired"));
    files.renew();
    eventually_some(PATIENCE, "a good certificate again", async || {
        Some(shown(&gateway, &trust).await).filter(|now| *now != before)
    })
    .await;
    stop.send_replace(true);
    while let Some(calls) = calling.join_next().await {
        assert!(calls.unwrap() > 0);
    }
    kept.call("tool_0", json!({})).await.expect("the connection of before is not dropped");
}

#[tokio::test]
async fn tls_is_switched_on_and_off_without_a_restart() {
    let files = Files::new();
    let plain = "servers: {}\n";
    let gateway = Gateway::start(plain).await;
    let listener: SocketAddr = gateway.address().parse().unwrap();
    gateway.reload(&files.yaml("", plain)).await;
    let trust = files.authority.trust();
    eventually_some(PATIENCE, "TLS", async || trust.connect(listener, "localhost").await.ok()).await;
    let instance = || fs::read_to_string(gateway.data_dir().join("instance.json")).unwrap();
    eventually(PATIENCE, "`https` where commands look", || instance().contains(&format!("https://{listener}/mcp")))
        .await;
    gateway.reload(plain).await;
    let url = format!("http://{listener}/health/live");
    eventually_some(PATIENCE, "plain HTTP", async || Some(get(&url).await).filter(|answer| answer.0 == 200)).await;
    eventually(PATIENCE, "`http` where commands look", || instance().contains(&format!("\"http://{listener}/mcp")))
        .await;
}

#[tokio::test]
async fn check_says_what_is_wrong_with_a_certificate_and_where() {
    let files = Files::new();
    files.authority.sign(LOOPBACK, Good::Past).write(files.dir.path());
    fs::write(files.dir.path().join("fairlead.yaml"), files.yaml("", "servers: {}\n")).unwrap();
    let output = cli(files.dir.path(), &["check", "-c", "fairlead.yaml"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["FL-1406", "the certificate has expired", "fairlead.yaml:1:"] {
        assert!(said.contains(part), "no `{part}`:\n{said}");
    }
}

/// A server behind TLS by one of its transports, and what the configuration says to reach it.
async fn secured(files: &Files, script: Script, way: Way) -> (ScriptedServer, String) {
    let server = ScriptedServer::start_at(Door::Https(files.sign()), script).await;
    let how = match way {
        Way::Http => format!("url: \"{}\"", server.url()),
        Way::Sse => format!("url: \"{}\", transport: sse", server.sse_url()),
        Way::WebSocket => format!("url: \"{}\"", server.ws_url()),
    };
    (server, how)
}

#[tokio::test]
async fn every_transport_of_servers_works_over_tls() {
    let files = Files::new();
    let modern = || Script { versions: Script::modern().versions, ..script() };
    let cells = [
        (Way::Http, script()),
        (Way::Http, modern()),
        (Way::Sse, script()),
        (Way::WebSocket, script()),
        (Way::WebSocket, modern()),
    ];
    let mut yaml = "servers:\n".to_owned();
    let mut servers = Vec::new();
    for (number, (way, script)) in cells.into_iter().enumerate() {
        let (server, how) = secured(&files, script, way).await;
        yaml += &format!("  s{number}: {{ {how} }}\n");
        servers.push((way, server));
    }
    let path = files.authority_path();
    let gateway = Gateway::start_with(&yaml, &[("SSL_CERT_FILE", path.to_str().unwrap())]).await;
    let clients = [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")];
    for (number, (way, server)) in servers.iter().enumerate() {
        rows::until_listed(&gateway, &format!("s{number}")).await;
        for client in &clients {
            let result = client.call(&format!("s{number}__works"), json!({"n": 1})).await;
            let result = result.unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
            assert_eq!(result["structuredContent"]["arguments"], json!({"n": 1}), "{way:?}: {result}");
        }
        assert!(server.received_method("tools/call").len() >= 2, "{way:?}");
    }
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_spoken_to() {
    let files = Files::new();
    let expired = Door::Https(files.authority.sign(LOOPBACK, Good::Past));
    let misnamed = Door::Https(files.authority.sign(&["elsewhere.test"], Good::Now));
    let foreign = Door::Https(Authority::new().sign(LOOPBACK, Good::Now));
    for (what, door) in [("Expired", expired), ("NotValidForName", misnamed), ("UnknownIssuer", foreign)] {
        let server = ScriptedServer::start_at(door, script()).await;
        let yaml = format!("servers:\n  h: {{ url: \"{}\" }}\n  w: {{ url: \"{}\" }}\n", server.url(), server.ws_url());
        let path = files.authority_path();
        let gateway = Gateway::start_with(&yaml, &[("SSL_CERT_FILE", path.to_str().unwrap())]).await;
        for name in ["h", "w"] {
            let row: Value = rows::until(&gateway, name, PATIENCE, "in trouble", |row| row["error"].is_string()).await;
            assert!(row["error"].as_str().unwrap().contains("certificate"), "{what}: {row}");
        }
        assert!(server.received().is_empty(), "{what}");
    }
}
