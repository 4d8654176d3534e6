//! How much freed memory the allocator of the C library keeps.
//!
//! Be aware: the settings are the whole process's. With other C libraries
//! nothing is set, and nothing is given back.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// From this size on an allocation is a mapping of its own (mallopt(3),
/// `M_MMAP_THRESHOLD`), while nothing else is said.
const OWN_MAPPING: i32 = 128 << 10;
/// The same, and how much is kept, while somebody uses much memory.
const OWN_MAPPING_BUSY: i32 = 16 << 20;
const KEPT_BUSY: i32 = 64 << 20;

struct Kept {
    /// How much is kept while nobody uses much; none: as the library does.
    calm: Option<i32>,
    busy: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { calm: None, busy: 0 });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(trim: i32, own_mapping: i32) {
    // SAFETY: mallopt sets a number; it may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, trim);
        libc::mallopt(libc::M_MMAP_THRESHOLD, own_mapping);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = (trim, own_mapping);
}

/// Makes the allocator give memory back as soon as this much at the end of an
/// arena is free. Without it the allocator keeps more and more, up to 64 MiB
/// in each arena, once a large piece was freed. Buffers of 128 KiB and more are
/// then the system's own from their first byte to their last.
pub fn keep_free_at_most(bytes: i32) {
    let mut kept = kept();
    kept.calm = Some(bytes);
    if kept.busy == 0 {
        set(bytes, OWN_MAPPING);
    }
}

/// Gives memory that was freed back to the system.
pub fn trim_memory() {
    // SAFETY: malloc_trim has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// While one of these lives, freed memory is kept for the next use: work that
/// takes and frees megabytes ten thousand times a second would else spend most
/// of its time having the system map and clear them. What is left is given
/// back when the last one goes.
#[derive(Debug)]
pub struct BusyMemory(());

impl BusyMemory {
    /// Begins such work.
    #[must_use]
    pub fn begin() -> Self {
        let mut kept = kept();
        kept.busy += 1;
        if kept.busy == 1 && kept.calm.is_some() {
            set(KEPT_BUSY, OWN_MAPPING_BUSY);
        }
        Self(())
    }
}

impl Drop for BusyMemory {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.busy -= 1;
        if kept.busy == 0
            && let Some(calm) = kept.calm
        {
            set(calm, OWN_MAPPING);
            drop(kept);
            trim_memory();
        }
    }
}
