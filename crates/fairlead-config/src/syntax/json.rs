//! JSON as people write it into configuration files: with `//` and `/* */` comments, trailing
//! commas and a byte order mark. A reader of our own because no JSON crate at hand keeps the places
//! of keys and values.

use super::Fault;
use crate::tree::{Entry, MAX_DEPTH, Map, Node, Place, Value};

pub(super) fn read(text: &str, source: usize) -> Result<Node, Vec<Fault>> {
    let mut reader = Reader { text, at: 0, source, faults: Vec::new() };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    let result = reader.document();
    match result {
        Ok(node) if reader.faults.is_empty() => Ok(node),
        Ok(_) => Err(reader.faults),
        Err(fault) => {
            reader.faults.push(fault);
            Err(reader.faults)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    source: usize,
    /// Mistakes after which reading could go on.
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Node, Fault> {
        self.space()?;
        if self.peek().is_none() {
            return Ok(Node::new(Value::Null, self.place(self.at)));
        }
        let node = self.value(0)?;
        self.space()?;
        match self.peek() {
            None => Ok(node),
            Some(_) => Err(self.fault("there is something after the end of the JSON value", "")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn place(&self, start: usize) -> Place {
        Place { source: self.source, start, end: self.at }
    }

    fn fault(&self, message: &str, hint: &str) -> Fault {
        Fault { start: self.at, end: self.at, message: message.to_owned(), hint: hint.to_owned() }
    }

    /// Skips white space and comments.
    fn space(&mut self) -> Result<(), Fault> {
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            self.at += blank;
            let rest = &self.text[self.at..];
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let end =
                    rest.find("*/").ok_or_else(|| self.fault("the comment does not end", "close it with `*/`"))?;
                self.at += end + 2;
            } else if blank == 0 || rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Err(super::too_deep(self.at));
        }
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'\'') => return Err(self.fault("JSON texts are in double quotes", "write `\"` instead of `'`")),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(byte) if byte.is_ascii_alphabetic() => self.word()?,
            Some(_) => return Err(self.fault("a value was expected here", "")),
            None => {
                return Err(
                    self.fault("the file ends in the middle of a value", "a closing bracket or quote is missing")
                );
            }
        };
        Ok(Node::new(value, self.place(start)))
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut map = Map::new();
        self.at += 1;
        loop {
            self.space()?;
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Map(map));
                }
                Some(b'"') => {}
                None => return Err(self.fault("the file ends inside an object", "a `}` is missing")),
                Some(_) => return Err(self.fault("a key in double quotes was expected here", "")),
            }
            let start = self.at;
            let name = self.string()?;
            let key = self.place(start);
            self.space()?;
            if self.peek() != Some(b':') {
                return Err(self.fault("a `:` was expected after the key", ""));
            }
            self.at += 1;
            self.space()?;
            let node = self.value(depth + 1)?;
            if map.contains_key(&name) {
                self.faults.push(Fault {
                    start: key.start,
                    end: key.end,
                    message: format!("duplicate key `{name}`"),
                    hint: "keep one of the two".to_owned(),
                });
            }
            map.insert(name, Entry { key, node });
            self.separator(b'}', "a `,` or `}` was expected here")?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut list = Vec::new();
        self.at += 1;
        loop {
            self.space()?;
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(list));
                }
                None => return Err(self.fault("the file ends inside a list", "a `]` is missing")),
                Some(_) => list.push(self.value(depth + 1)?),
            }
            self.separator(b']', "a `,` or `]` was expected here")?;
        }
    }

    /// A comma, or the end, which is left for the caller.
    fn separator(&mut self, end: u8, message: &str) -> Result<(), Fault> {
        self.space()?;
        match self.peek() {
            Some(b',') => self.at += 1,
            Some(byte) if byte == end => {}
            _ => return Err(self.fault(message, "a comma is missing before it")),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(b'\n') | None => {
                    return Err(self.fault("the text does not end on its line", "a closing `\"` is missing"));
                }
                Some(_) => end += 1,
            }
        }
        end += 1;
        let raw = self.text.get(start..end).ok_or_else(|| self.fault("the text contains a broken escape", ""))?;
        let decoded = serde_json::from_str(raw).map_err(|_| {
            self.fault(
                "the text contains a broken escape or a control character",
                "write `\\\\` for a backslash, `\\t` for a tab",
            )
        })?;
        self.at = end;
        Ok(decoded)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let spelling = &rest[..length];
        if serde_json::from_str::<serde_json::Number>(spelling).is_err() {
            return Err(self.fault("this is not a number", "quote it if it is text"));
        }
        self.at += length;
        Ok(Value::Number(spelling.to_owned()))
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let value = match &rest[..length] {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            _ => return Err(self.fault("a value was expected here", "put texts in double quotes")),
        };
        self.at += length;
        Ok(value)
    }
}
