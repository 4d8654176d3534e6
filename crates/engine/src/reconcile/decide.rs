//! What a record and what was found say together. Pure.

use sampan_runtime::{ExitStatus, Shim};
use sampan_types::Timestamp;

use crate::record::{ContainerRecord, Desired, Status};

/// The exit code of a container that ended with the machine, as Docker's.
const ENDED_WITH_THE_MACHINE: i32 = 255;
/// The exit code of a container whose shim was killed.
const KILLED: i32 = 137;

/// What was found of a container's run.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A living shim.
    Shim {
        /// Which start it is.
        generation: u64,
        /// Whether the program was started.
        started: bool,
        /// The handle; absent in tests.
        shim: Option<Shim>,
    },
    /// No shim, and perhaps how a run ended.
    Gone(Option<ExitStatus>),
}

/// What is to be done with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs, and goes on.
    Adopted,
    /// It ended while no daemon was there.
    Ended(ExitStatus),
    /// Its start was interrupted before the program ran: it is made again.
    HalfStarted,
    /// Its creation was interrupted: it is undone.
    HalfMade,
    /// Its removal was interrupted: it is finished.
    HalfRemoved,
    /// It does not run, as its record says.
    Idle,
}

/// Decides from the record, what was found, and the machine's boot.
pub(super) fn decide(
    record: &ContainerRecord,
    found: Found,
    boot_id: &str,
) -> (Verdict, Option<Shim>) {
    if record.desired == Desired::Creating {
        return (Verdict::HalfMade, None);
    }
    let thought_running = record.state.has_process();
    match found {
        Found::Shim { generation, started, shim } => {
            if started && generation == record.generation {
                return (Verdict::Adopted, shim);
            }
            // A start that was not finished, or one that was given up.
            (unfinished(record), None)
        }
        Found::Gone(exit) => {
            let exit = exit.filter(|e| e.generation == record.generation);
            let ran = thought_running || record.desired == Desired::Running;
            let verdict = match exit {
                // The record may know of this end already.
                Some(exit) if thought_running => Verdict::Ended(exit),
                Some(exit) if ran && exit.finished > record.state.finished => Verdict::Ended(exit),
                _ if thought_running => Verdict::Ended(lost(record, boot_id)),
                _ if record.boot_id != boot_id
                    && record.desired == Desired::Running
                    && record.state.status != Status::Restarting =>
                {
                    // The machine went down in the middle of a start.
                    Verdict::Ended(lost(record, boot_id))
                }
                _ => unfinished(record),
            };
            (verdict, None)
        }
    }
}

fn unfinished(record: &ContainerRecord) -> Verdict {
    match record.desired {
        Desired::Creating => Verdict::HalfMade,
        Desired::Removed { .. } => Verdict::HalfRemoved,
        // The policy's own restarts are planned anew.
        Desired::Running if record.state.status == Status::Restarting => Verdict::Idle,
        Desired::Running => Verdict::HalfStarted,
        Desired::Stopped => Verdict::Idle,
    }
}

/// The end of a run that nobody recorded.
fn lost(record: &ContainerRecord, boot_id: &str) -> ExitStatus {
    let rebooted = record.boot_id != boot_id;
    ExitStatus {
        code: if rebooted { ENDED_WITH_THE_MACHINE } else { KILLED },
        finished: Timestamp::now(),
        oom_killed: false,
        generation: record.generation,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn base(desired: Desired, status: Status) -> ContainerRecord {
        let mut r = record(&"ab".repeat(32), "web");
        r.desired = desired;
        r.state.status = status;
        r.generation = 3;
        r.boot_id = "boot".into();
        r
    }

    fn exit(generation: u64, at: i64) -> Option<ExitStatus> {
        Some(ExitStatus {
            code: 5,
            finished: Timestamp::from_nanos(at),
            oom_killed: false,
            generation,
            error: None,
        })
    }

    fn shim(generation: u64, started: bool) -> Found {
        Found::Shim { generation, started, shim: None }
    }

    fn verdict(r: &ContainerRecord, found: Found) -> Verdict {
        decide(r, found, "boot").0
    }

    #[test]
    fn what_runs_is_adopted_whatever_was_written() {
        for status in [Status::Created, Status::Running, Status::Exited, Status::Restarting] {
            let r = base(Desired::Running, status);
            assert_eq!(verdict(&r, shim(3, true)), Verdict::Adopted, "{status:?}");
        }
        // Also when it shall be stopped: that is done afterwards.
        let r = base(Desired::Stopped, Status::Running);
        assert_eq!(verdict(&r, shim(3, true)), Verdict::Adopted);
    }

    #[test]
    fn interrupted_starts_are_made_again() {
        let r = base(Desired::Running, Status::Created);
        assert_eq!(verdict(&r, shim(3, false)), Verdict::HalfStarted);
        assert_eq!(verdict(&r, Found::Gone(None)), Verdict::HalfStarted);
        assert_eq!(verdict(&r, Found::Gone(exit(2, 9))), Verdict::HalfStarted);
    }

    #[test]
    fn ends_are_true_ones() {
        let r = base(Desired::Running, Status::Running);
        let Verdict::Ended(e) = verdict(&r, Found::Gone(exit(3, 9))) else { panic!() };
        assert_eq!(e.code, 5);
        let Verdict::Ended(e) = verdict(&r, Found::Gone(None)) else { panic!() };
        assert_eq!(e.code, KILLED);
        let Verdict::Ended(e) = decide(&r, Found::Gone(None), "another boot").0 else { panic!() };
        assert_eq!(e.code, ENDED_WITH_THE_MACHINE);
        // Started and ended before the running state was written.
        let r = base(Desired::Running, Status::Created);
        assert!(matches!(verdict(&r, Found::Gone(exit(3, 9))), Verdict::Ended(_)));
    }

    #[test]
    fn a_known_end_is_not_told_twice() {
        let mut r = base(Desired::Stopped, Status::Exited);
        r.state.finished = Timestamp::from_nanos(9);
        assert_eq!(verdict(&r, Found::Gone(exit(3, 9))), Verdict::Idle);
        let mut r = base(Desired::Running, Status::Restarting);
        r.state.finished = Timestamp::from_nanos(9);
        assert_eq!(verdict(&r, Found::Gone(exit(3, 9))), Verdict::Idle);
    }

    #[test]
    fn half_made_and_half_removed() {
        let r = base(Desired::Creating, Status::Created);
        assert_eq!(verdict(&r, Found::Gone(None)), Verdict::HalfMade);
        let r = base(Desired::Removed { volumes: true }, Status::Removing);
        assert_eq!(verdict(&r, Found::Gone(None)), Verdict::HalfRemoved);
        let r = base(Desired::Stopped, Status::Created);
        assert_eq!(verdict(&r, Found::Gone(None)), Verdict::Idle);
    }

    #[test]
    fn a_start_that_the_machines_end_cut_off_is_not_repeated() {
        let r = base(Desired::Running, Status::Created);
        assert!(matches!(decide(&r, Found::Gone(None), "another boot").0, Verdict::Ended(_)));
    }
}
