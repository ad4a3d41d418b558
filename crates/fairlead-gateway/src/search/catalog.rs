//! What a search looks through: the tools of a toolset as its clients may call them, and the index over them.

use super::bm25::{Document, Index};
use bytes::Bytes;
use fairlead_wire::list;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::sync::OnceCell;

/// Catalogs kept per endpoint: clients of different eras and capabilities may be shown different ones.
const MAX_KEPT: usize = 4;

/// A tool that can be found.
#[derive(Debug)]
pub(crate) struct Tool {
    /// As clients call it.
    pub(crate) name: Box<str>,
    pub(crate) server: Box<str>,
    /// As it is listed.
    pub(crate) raw: Bytes,
}

impl Tool {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.raw).unwrap_or("{}")
    }
}

/// The tools of a toolset. The index is made when somebody searches for the first time.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) tools: Arc<[Tool]>,
    by_name: HashMap<Box<str>, usize>,
    digest: [u8; 32],
    index: OnceCell<Arc<Index>>,
}

impl Catalog {
    /// `servers` says whose the items are: each server's name with the number of items up to its last.
    fn new(items: &[Bytes], servers: &[(usize, Box<str>)], digest: [u8; 32]) -> Self {
        let mut owners = servers.iter();
        let mut owner = owners.next();
        let mut tools = Vec::with_capacity(items.len());
        for (at, raw) in items.iter().enumerate() {
            while owner.is_some_and(|(end, _)| at >= *end) {
                owner = owners.next();
            }
            let text = std::str::from_utf8(raw).unwrap_or_default();
            let Some(name) = list::string_member(text, "name") else { continue };
            let server = owner.map(|(_, name)| name.clone()).unwrap_or_default();
            tools.push(Tool { name: (&*name).into(), server, raw: raw.clone() });
        }
        let by_name = tools.iter().enumerate().map(|(at, tool)| (tool.name.clone(), at)).collect();
        Self { tools: tools.into(), by_name, digest, index: OnceCell::new() }
    }

    /// The tool that clients call `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Tool> {
        self.by_name.get(name).map(|at| &self.tools[*at])
    }

    /// The index. It takes milliseconds per hundred tools to make, which is done beside the calls of its thread.
    pub(crate) async fn index(&self) -> Arc<Index> {
        let make = || async {
            let tools = Arc::clone(&self.tools);
            let index = move || Index::new(tools.iter().map(document));
            tokio::task::spawn_blocking(index).await.unwrap_or_else(|_| Index::new([])).into()
        };
        Arc::clone(self.index.get_or_init(make).await)
    }

    /// The servers that have tools here, with how many.
    pub(crate) fn servers(&self) -> Vec<(&str, usize)> {
        let mut servers: Vec<(&str, usize)> = Vec::new();
        for tool in self.tools.iter() {
            match servers.last_mut() {
                Some((name, count)) if **name == *tool.server => *count += 1,
                _ => servers.push((&tool.server, 1)),
            }
        }
        servers
    }
}

/// What is searched of a tool.
pub(crate) fn document(tool: &Tool) -> Document {
    let text = tool.text();
    let member = |key: &str| list::string_member(text, key).map(std::borrow::Cow::into_owned).unwrap_or_default();
    let own = tool.name.strip_prefix(&*tool.server).and_then(|rest| rest.strip_prefix(fairlead_wire::name::SEPARATOR));
    let mut document = Document {
        name: own.unwrap_or(&tool.name).to_owned(),
        title: member("title"),
        description: member("description"),
        server: tool.server.to_string(),
        ..Document::default()
    };
    let properties = list::raw_member(text, "inputSchema").and_then(|schema| list::raw_member(schema, "properties"));
    for (name, schema) in properties.and_then(|all| list::entries(all).ok()).unwrap_or_default() {
        document.parameters.push_str(&name);
        document.parameters.push(' ');
        if let Some(text) = list::string_member(schema, "description") {
            document.parameter_texts.push_str(&text);
            document.parameter_texts.push(' ');
        }
    }
    document
}

/// The catalogs of an endpoint, so that one that has not changed is not indexed anew: any change at any server
/// makes every endpoint merge its lists again.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Vec<Arc<Catalog>>>);

impl Kept {
    pub(crate) fn catalog(&self, items: &[Bytes], servers: &[(usize, Box<str>)]) -> Arc<Catalog> {
        let mut digest = Sha256::new();
        for item in items {
            digest.update(u64::try_from(item.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(item);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut kept = self.0.lock().expect("invariant: no panic under this lock");
        if let Some(at) = kept.iter().position(|catalog| catalog.digest == digest) {
            let catalog = kept.remove(at);
            kept.push(Arc::clone(&catalog));
            return catalog;
        }
        let catalog = Arc::new(Catalog::new(items, servers, digest));
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        kept.push(Arc::clone(&catalog));
        catalog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_catalog_that_did_not_change_is_kept() {
        let items: Vec<Bytes> = ["crm__list_deals", "crm__get_customer", "odd"]
            .map(|name| {
                format!(r#"{{"name":"{name}","inputSchema":{{"properties":{{"id":{{"description":"which"}}}}}}}}"#)
                    .into()
            })
            .into();
        let servers = [(0, "empty".into()), (2, "crm".into()), (3, "other".into())];
        let kept = Kept::default();
        let catalog = kept.catalog(&items, &servers);
        assert_eq!(catalog.servers(), [("crm", 2), ("other", 1)]);
        assert!(catalog.get("crm__get_customer").is_some() && catalog.get("get_customer").is_none());
        assert_eq!(catalog.index().await.search("customer", 5), [1]);
        assert_eq!(document(&catalog.tools[0]).parameter_texts, "which ");
        assert!(Arc::ptr_eq(&catalog, &kept.catalog(&items, &servers)));
        for count in 0..=2 {
            assert!(!Arc::ptr_eq(&catalog, &kept.catalog(&items[..count], &servers)));
        }
        assert!(Arc::ptr_eq(&catalog, &kept.catalog(&items, &servers)));
    }
}
