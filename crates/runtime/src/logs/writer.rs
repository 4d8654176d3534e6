//! Writers of logs: what the shim calls for each line.

use std::io;

use sampan_types::Timestamp;

use super::{LogSetup, StdStream, json, local, rotate, syslog};

/// One line, or a piece of a long one.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it came from.
    pub stream: StdStream,
    /// When.
    pub time: Timestamp,
    /// Without the newline.
    pub line: &'a [u8],
    /// More of the same line follows: no newline is logged.
    pub partial: bool,
}

/// Receives records. Synchronous; used by one thread.
///
/// An error concerns that record only: the caller counts it and goes on.
pub trait LogSink {
    /// Writes one record to the driver's buffer.
    ///
    /// # Errors
    /// When the record is lost.
    fn write(&mut self, record: &Record<'_>) -> io::Result<()>;

    /// Hands what is buffered to the kernel: call it once after each batch of
    /// output, before waiting for more.
    ///
    /// # Errors
    /// When something is lost.
    fn flush(&mut self) -> io::Result<()>;

    /// Records lost since the log was opened.
    fn dropped(&self) -> u64;
}

/// Opens the log for appending.
///
/// # Errors
/// When a log file can't be made. A syslog receiver that is away is no error.
pub fn open(setup: &LogSetup) -> io::Result<Box<dyn LogSink>> {
    Ok(match setup {
        LogSetup::None => Box::new(Discard),
        LogSetup::JsonFile { path, max_size, max_file, compress, attrs } => {
            let rotation =
                rotate::Rotation { max_size: *max_size, max_file: *max_file, compress: *compress };
            Box::new(json::JsonSink::open(path, rotation, attrs)?)
        }
        LogSetup::Local { path, max_size, max_file, compress, attrs } => {
            let rotation =
                rotate::Rotation { max_size: *max_size, max_file: *max_file, compress: *compress };
            Box::new(local::LocalSink::open(path, rotation, attrs)?)
        }
        LogSetup::Syslog { address, facility, tag, format, buffer } => {
            Box::new(syslog::SyslogSink::new(address.clone(), *facility, tag, *format, *buffer))
        }
    })
}

/// The driver `none`.
struct Discard;

impl LogSink for Discard {
    fn write(&mut self, _record: &Record<'_>) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn dropped(&self) -> u64 {
        0
    }
}
