//! One call of a scripted tool, step by step.

use std::{sync::atomic::Ordering, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    answer::{Exchange, Incoming, Outcome, finish},
    core::{NEVER, notification},
    rounds::{self, Turn},
    script::{Finish, Question, Script, Step, ToolScript, Via},
    session::Outlet,
};

/// Between two looks at a gate.
const LOOK: Duration = Duration::from_millis(10);
/// How long a question waits for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct RawCall {
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

/// Runs a call to its end or to its cancellation.
pub(crate) async fn run(
    exchange: &Exchange,
    script: &Script,
    tool: &ToolScript,
    incoming: &Incoming,
    params: &Value,
) -> Outcome {
    let id = incoming.id();
    let mut cancelled = exchange.session.begin_call(id);
    let outcome = tokio::select! {
        biased;
        // The sender is dropped only when the call has ended.
        Ok(_) = cancelled.wait_for(|cancelled| *cancelled) => {
            exchange.core.note_cancelled(id);
            exchange.core.note_cancelled_call(params);
            return Outcome::Silent;
        }
        outcome = steps(exchange, script, tool, incoming, params) => outcome,
    };
    exchange.session.end_call(id);
    exchange.core.calls_finished.fetch_add(1, Ordering::Relaxed);
    outcome
}

async fn steps(
    exchange: &Exchange,
    script: &Script,
    tool: &ToolScript,
    incoming: &Incoming,
    params: &Value,
) -> Outcome {
    let mut answers = given_answers(params);
    if exchange.modern && !tool.rounds.is_empty() {
        match rounds::turn(&tool.rounds, tool.endless, incoming) {
            Turn::Answer(outcome) => return outcome,
            Turn::Through(responses) => answers = vec![responses],
        }
    }
    // A modern client that comes back with answers does not see the steps before them again.
    let mut to_skip = if tool.rounds.is_empty() { answers.len() } else { 0 };
    let end = exchange.core.end_of(tool);
    let token = &params["_meta"]["progressToken"];
    let mut reported = 0_u64;
    for step in &tool.steps {
        if to_skip > 0 {
            to_skip -= usize::from(matches!(step, Step::Ask { .. }));
            continue;
        }
        match step {
            Step::Sleep { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Step::Gate { path } => {
                while !path.exists() {
                    tokio::time::sleep(LOOK).await;
                }
            }
            Step::Progress { times, every_ms } => {
                for _ in 0..*times {
                    tokio::time::sleep(Duration::from_millis(*every_ms)).await;
                    reported += 1;
                    if !token.is_null() {
                        let mut report = json!({"progressToken": token, "progress": reported, "message": "working"});
                        if script.unknown_members {
                            report["x-vendor"] = json!(true);
                        }
                        exchange.outlet.send(notification("notifications/progress", &report)).await;
                    }
                }
            }
            Step::Log { level, text } => {
                let params = json!({"level": level, "logger": script.name, "data": text});
                exchange.outlet.send(notification("notifications/message", &params)).await;
            }
            Step::Ask { question, .. } if exchange.task.is_some() => match ask_in_task(exchange, *question).await {
                Some(answer) => answers.push(answer),
                None => return Outcome::Refused((-32603, "the client did not answer".to_owned(), None)),
            },
            Step::Ask { question, .. } if exchange.modern => return ask_modern(*question, &answers),
            Step::Ask { question, via } => match ask_legacy(exchange, *question, *via).await {
                Some(answer) => answers.push(answer),
                None => return Outcome::Refused((-32603, "the client did not answer".to_owned(), None)),
            },
            Step::AskTogether { questions, via } => {
                let asking = questions.iter().map(|question| ask_legacy(exchange, *question, *via));
                for answer in futures_util::future::join_all(asking).await {
                    match answer {
                        Some(answer) => answers.push(answer),
                        None => return Outcome::Refused((-32603, "the client did not answer".to_owned(), None)),
                    }
                }
            }
            Step::Notify { method, params, via } => {
                outlet(exchange, *via).send(notification(method, params)).await;
            }
            Step::Raw { text } => exchange.outlet.send(text.clone()).await,
            Step::HangUp { retry_ms } => {
                if let Outlet::Stream(log) = &exchange.outlet {
                    log.hang_up(*retry_ms);
                }
            }
        }
    }
    if matches!(end, Finish::Hang) {
        tokio::time::sleep(NEVER).await;
    }
    finish(exchange, script, &end, echo(tool, incoming, &answers))
}

fn outlet(exchange: &Exchange, via: Via) -> &Outlet {
    match via {
        Via::Call => &exchange.outlet,
        Via::Get => &exchange.session.side,
    }
}

/// The result of an echoing tool; the arguments keep their bytes.
fn echo(tool: &ToolScript, incoming: &Incoming, answers: &[Value]) -> String {
    let call = incoming.params.as_ref().and_then(|raw| serde_json::from_str::<RawCall>(raw.get()).ok());
    let arguments = call.and_then(|call| call.arguments);
    let arguments = arguments.as_ref().map_or("null", |raw| raw.get());
    let said = format!(
        r#"{{"tool":{},"arguments":{arguments},"answers":{}}}"#,
        Value::from(tool.name.as_str()),
        Value::from(answers.to_vec()),
    );
    let text = Value::from(said.as_str());
    format!(r#"{{"content":[{{"type":"text","text":{text}}}],"structuredContent":{said}}}"#)
}

/// Sends a request to the client and waits for what comes back, as `{"result"}` or `{"error"}`.
pub(crate) async fn ask_legacy(exchange: &Exchange, question: Question, via: Via) -> Option<Value> {
    let (id, answer) = exchange.session.ask();
    let request = json!({"jsonrpc": "2.0", "id": id, "method": question.method(), "params": question.params()});
    outlet(exchange, via).send(request.to_string()).await;
    tokio::time::timeout(ANSWER_LIMIT, answer).await.ok()?.ok()
}

/// Asks as a task does: over `tasks/result` in the core, with `tasks/get` in the extension.
async fn ask_in_task(exchange: &Exchange, question: Question) -> Option<Value> {
    let task = exchange.task.as_deref()?;
    let request = json!({"method": question.method(), "params": question.params()});
    let answer = if exchange.modern {
        exchange.core.tasks.ask(task, None, request)?
    } else {
        let (id, answer) = exchange.session.ask();
        let mut params = question.params();
        params["_meta"]["io.modelcontextprotocol/related-task"] = json!({"taskId": task});
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": question.method(), "params": params});
        exchange.core.tasks.ask(task, Some(frame.to_string()), request)?;
        answer
    };
    let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await.ok()?.ok();
    exchange.core.tasks.go_on(task);
    answer
}

/// The answers so far: those in the echoed state, and the one that was brought for the question after them.
fn given_answers(params: &Value) -> Vec<Value> {
    let state = params["requestState"].as_str().and_then(|state| serde_json::from_str::<Value>(state).ok());
    let mut answers = state.and_then(|state| state["answers"].as_array().cloned()).unwrap_or_default();
    if let Some(answer) = params["inputResponses"].get(question_key(answers.len())) {
        answers.push(json!({"result": answer}));
    }
    answers
}

fn ask_modern(question: Question, answers: &[Value]) -> Outcome {
    let state = json!({"answers": answers}).to_string();
    let key = question_key(answers.len());
    let request = json!({"method": question.method(), "params": question.params()});
    let result = json!({"resultType": "input_required", "inputRequests": {key: request}, "requestState": state});
    Outcome::Result(result.to_string())
}

fn question_key(number: usize) -> String {
    format!("question_{number}")
}
