//! A scripted server on stdin and stdout: `scripted SCRIPT.json`.

use anyhow::Context as _;
use fairlead_testkit::{Script, stdio};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == stdio::GRANDCHILD) {
        return stdio::idle(arguments.iter().any(|argument| argument == stdio::STUBBORN)).await;
    }
    let path = arguments.first().context("usage: scripted SCRIPT.json")?;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let script: Script = serde_json::from_str(&text).with_context(|| format!("{path} is not a script"))?;
    stdio::serve(script).await?;
    // A blocked read of stdin must not keep the process.
    std::process::exit(0);
}
