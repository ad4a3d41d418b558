//! Sessions whose handlers may hang up on a call's own stream, as revision 2025-11-25 allows (SEP-1699).
//!
//! The library's session manager can close the stream of a call but does not tell the handler which stream it is on.
//! This one delegates everything and leaves a [`CallStream`] with each request, nothing more.

use std::time::Duration;

use futures_util::{Stream, stream};
use rmcp::{
    model::{ClientJsonRpcMessage, GetExtensions as _, ServerJsonRpcMessage},
    transport::{
        common::server_side_http::ServerSseMessage,
        streamable_http_server::{
            RestoreOutcome, SessionId, SessionManager,
            session::local::{LocalSessionHandle, LocalSessionManager, LocalSessionManagerError, SessionError},
        },
    },
};

/// The stream that will carry the answer of one request of a legacy session.
#[derive(Clone)]
pub(crate) struct CallStream {
    session: LocalSessionHandle,
    stream: u64,
}

impl CallStream {
    /// Ends the HTTP response now; the client comes back with `Last-Event-ID` after `retry` and gets the rest.
    pub(crate) async fn hang_up(&self, retry: Duration) -> Result<(), SessionError> {
        self.session.close_sse_stream(self.stream, Some(retry)).await
    }
}

/// [`LocalSessionManager`] with a [`CallStream`] in the extensions of every request.
#[derive(Default)]
pub(crate) struct PollingSessions(LocalSessionManager);

impl SessionManager for PollingSessions {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.0.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.0.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.0.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.0.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let session = self.0.sessions.read().await.get(id).cloned();
        let session = session.ok_or_else(|| LocalSessionManagerError::SessionNotFound(id.clone()))?;
        let receiver = session.establish_request_wise_channel().await?;
        if let (ClientJsonRpcMessage::Request(request), Some(stream)) = (&mut message, receiver.http_request_id) {
            request.request.extensions_mut().insert(CallStream { session: session.clone(), stream });
        }
        session.push_message(message, receiver.http_request_id).await?;
        Ok(stream::unfold(receiver.inner, async |mut inner| inner.recv().await.map(|event| (event, inner))))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.0.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.resume(id, last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.0.restore_session(id).await
    }
}
