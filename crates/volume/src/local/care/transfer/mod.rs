//! Sending and receiving volumes.
//!
//! Be aware: whoever sends or receives is one of the volume's users for that
//! time. Containers may come and go while a volume is sent; one that is
//! received must have no other user when the new content is put in its place.

mod received;
mod sent;

use sampan_types::VolumeName;

use super::super::{Local, blocking};
use super::{detached, reader_of};
use crate::transfer::{Incoming, Output, ReceiveOptions, Received, SendOptions, Sent, Transfer};
use crate::{BoxFuture, CloneSource, VolumeError, Watch};

/// What somebody who receives is called among the volume's users.
const RECEIVER: &str = "receive";

impl Transfer for Local {
    fn send<'a>(
        &'a self,
        from: &'a CloneSource,
        options: &'a SendOptions,
        output: Output,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Sent, VolumeError>> {
        let (inner, options, stop) = (self.inner.clone(), options.clone(), watch.clone());
        let snapshot = from.snapshot.clone();
        let user = match &snapshot {
            Some(snapshot) => reader_of(snapshot, "send"),
            None => "send".to_owned(),
        };
        let work = self.reading(&from.volume, user, watch, move |entry| {
            inner.send(entry, snapshot.as_ref(), &options, output, &stop)
        });
        Box::pin(work)
    }

    fn receive<'a>(
        &'a self,
        name: &'a VolumeName,
        stream: Incoming,
        options: &'a ReceiveOptions,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Received, VolumeError>> {
        let (inner, options, stop) = (self.inner.clone(), options.clone(), watch.clone());
        if self.inner.entry(name).is_ok() {
            let work = self.reading(name, RECEIVER.to_owned(), watch, move |entry| {
                inner.receive_into(entry, stream, &options, RECEIVER, &stop)
            });
            return Box::pin(work);
        }
        let name = name.clone();
        let work = blocking(move || inner.receive_new(name, stream, &options, &stop));
        Box::pin(detached(watch, work))
    }
}
