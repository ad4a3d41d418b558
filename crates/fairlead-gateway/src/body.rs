//! Bodies of answers: whole, or a stream of chunks that ends when its source does.

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// A stream of chunks.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of an answer.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(Chunks),
}

impl Body {
    /// A body that is there already.
    #[must_use]
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Inner::Whole(if bytes.is_empty() { None } else { Some(bytes) }))
    }

    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// Whether there is a body, and it is there as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.0, Inner::Whole(Some(_)))
    }

    /// Its length, if it is there as a whole; else 0.
    pub(crate) fn whole_len(&self) -> usize {
        match &self.0 {
            Inner::Whole(Some(bytes)) => bytes.len(),
            _ => 0,
        }
    }

    /// Takes out what is there as a whole.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Inner::Whole(bytes) => bytes.take(),
            Inner::Stream(_) => None,
        }
    }

    pub(crate) fn stream(chunks: Chunks) -> Self {
        Self(Inner::Stream(chunks))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(chunks) => {
                chunks.as_mut().poll_next(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Whole(_) => "Body::Whole",
            Inner::Stream(_) => "Body::Stream",
        })
    }
}
