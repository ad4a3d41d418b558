//! The four lists: answered from bytes that are ready. Only a server that was never seen, or never by
//! a client with these capabilities, is waited for, and that at most `catalog.first_wait`.

use crate::{
    body::Body,
    call::Call,
    compress::ListBody,
    record,
    response::{JSON, refuse_call},
    snapshot::Upstream,
};
use bytes::{BufMut, BytesMut};
use fairlead_core::{Code, Refusal};
use fairlead_upstream::ListingKind;
use fairlead_wire::Field;
use http::{Response, header};

/// Answers a list request.
pub(crate) async fn answer(call: &Call, kind: ListingKind) -> Response<Body> {
    let cursor = call.frame.str(Field::Cursor);
    if cursor.is_none() {
        let _ = learn_what_is_new(call).await;
    }
    let merged = call.endpoint.merged(call.era, call.capabilities, call.gateway.epoch());
    let Some(page) = merged.page(kind, call.era, cursor.as_deref()) else {
        let refusal = Refusal::new(
            Code::BadCursor,
            "the cursor was not issued for this list, or the list has changed; start over",
        );
        return refuse_call(call.era, Some(call.id()), &refusal);
    };
    record::own(call);
    let id = call.id();
    let mut body = BytesMut::with_capacity(page.bytes().len() + id.len() + 40);
    body.put_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    body.put_slice(id.as_bytes());
    body.put_slice(b",\"result\":");
    let from = body.len();
    body.put_slice(page.bytes());
    body.put_u8(b'}');
    let mut response = Response::new(Body::whole(body.freeze()));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    if call.endpoint.config.listen.compression.is_some() {
        response.extensions_mut().insert(ListBody { prepared: page.compressed(), from });
    }
    response
}

/// Waits for the lists of one server, if it was never seen by a client like this; `false` when it was.
pub(crate) async fn learn_of(call: &Call, server: &Upstream) -> bool {
    if server.handle.peek().catalog(call.era, call.capabilities).is_some() {
        return false;
    }
    let wait = call.endpoint.config.catalog.first_wait;
    server.handle.catalog(call.era, call.capabilities, wait).await.is_some()
}

/// Waits for servers that were never seen by a client like this; `false` when there are none.
pub(crate) async fn learn_what_is_new(call: &Call) -> bool {
    let unknown: Vec<_> = call
        .endpoint
        .servers
        .iter()
        .filter(|server| {
            server.handle.peek().catalog(call.era, call.capabilities).is_none_or(|catalog| !catalog.confirmed)
        })
        .map(|server| server.handle.clone())
        .collect();
    if unknown.is_empty() {
        return false;
    }
    let wait = call.endpoint.config.catalog.first_wait;
    let waits = unknown.iter().map(|handle| handle.catalog(call.era, call.capabilities, wait));
    futures_util::future::join_all(waits).await;
    true
}
