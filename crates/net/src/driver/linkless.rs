//! The drivers `host` and `none`: no interface is made. Whether a sandbox has
//! the host's namespace or an empty one of its own is the manager's part.

use super::{AttachRequest, BoxFuture, DetachRequest, Driver, ObservedEndpoint};
use crate::config::Attachment;
use crate::error::NetError;

/// The driver of networks that have no interface of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linkless;

impl Driver for Linkless {
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(async move { Ok(Attachment::blank(&request.endpoint)) })
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(async move { Ok((Attachment::blank(&request.endpoint), false)) })
    }

    fn detach(&self, _request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }
}
