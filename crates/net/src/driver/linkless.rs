//! The drivers `host` and `none`: no interface is made. Whether a sandbox has
//! the host's namespace or an empty one of its own is the manager's part.

use sampan_types::NetworkId;

use super::{AttachRequest, BoxFuture, Driver, Observed, ObservedEndpoint};
use crate::config::{Attachment, NetworkSpec};
use crate::error::NetError;

/// The driver of networks that have no interface of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linkless;

fn attachment(request: &AttachRequest) -> Attachment {
    Attachment {
        endpoint: request.endpoint.endpoint.clone(),
        network: request.network.id.clone(),
        interface: None,
        host_interface: None,
        mac: None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        mtu: 0,
    }
}

impl Driver for Linkless {
    fn create_network<'a>(
        &'a self,
        _network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn delete_network<'a>(
        &'a self,
        _network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(async move { Ok(attachment(&request)) })
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(async move { Ok((attachment(&request), false)) })
    }

    fn detach<'a>(
        &'a self,
        _host_interface: &'a str,
        _wait: bool,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(async { Ok(Observed::default()) })
    }
}
