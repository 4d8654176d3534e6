//! The driver of networks by ipvlan.

use sampan_types::NetworkId;

use super::{AttachRequest, BoxFuture, DetachRequest, Driver, Observed, ObservedEndpoint};
use crate::config::{Attachment, NetworkSpec};
use crate::error::NetError;

/// The driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ipvlan;

fn unsupported() -> NetError {
    NetError::NotSupported { what: "a network by ipvlan".to_owned() }
}

impl Driver for Ipvlan {
    fn create_network<'a>(
        &'a self,
        _network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(async { Err(unsupported()) })
    }

    fn delete_network<'a>(
        &'a self,
        _network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn discard_network<'a>(
        &'a self,
        _network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

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

    fn discard_endpoint<'a>(
        &'a self,
        _endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(async { Ok(Observed::default()) })
    }
}
