//! The workers of a pool. One word holds the state of the current loop:
//!
//! ```text
//! state = number of the loop << 32 | OPEN | workers inside
//! ```
//!
//! The caller writes the loop down, opens it, works along, closes it when no task is left, and
//! waits for those who are inside. A worker may enter only while the loop is open, in the same
//! atomic step that counts it, so nobody can reach a loop that its caller has left.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, yield_now};
use std::vec::Vec;

/// Turns of a worker's wait for the next loop before it gives way, and before it sleeps: tens of
/// microseconds, about what lies between two linear layers.
const SPINS: u32 = 1 << 10;
const YIELDS: u32 = 1 << 4;

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const NEXT: u64 = 1 << 32;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The loop that is being worked on.
#[derive(Clone, Copy)]
struct Loop {
    /// Borrowed from the caller of `run`, who does not return before all have left the loop.
    task: *const Task<'static>,
    tasks: usize,
}

struct Shared {
    state: AtomicU64,
    /// Written by the owner of `calls` while the loop is closed and empty; read inside only.
    current: UnsafeCell<Option<Loop>>,
    /// The next task to claim.
    next: AtomicUsize,
    /// Held while a loop runs.
    calls: Mutex<()>,
    /// Workers that sleep or are about to; counted under `bed`.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    morning: Condvar,
    /// The caller waits here for the last worker to leave.
    door: Mutex<()>,
    left: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    shutdown: AtomicBool,
}

// SAFETY: `current` is written only by the thread that holds `calls`, while no worker is inside
// (state), and read only by workers that are; the pointer in it is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// The threads of a pool besides the calling one.
pub(super) struct Workers {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.handles.len())
    }
}

/// No code panics while it holds one of our locks, so a poisoned lock guards nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    pub(super) fn new(count: usize) -> Workers {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            current: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            calls: Mutex::new(()),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            morning: Condvar::new(),
            door: Mutex::new(()),
            left: Condvar::new(),
            panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
        });
        let spawn = |i| {
            let shared = shared.clone();
            Builder::new().name(format!("lockstep-{i}")).spawn(move || shared.work()).ok()
        };
        let handles = (1..=count).map_while(spawn).collect();
        Workers { shared, handles }
    }

    pub(super) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Runs the loop; false if another loop is running (then nothing was done).
    pub(super) fn run(&self, tasks: usize, task: &Task<'_>) -> bool {
        let shared = &*self.shared;
        let Ok(call) = shared.calls.try_lock() else {
            return false;
        };
        // SAFETY: only the lifetime changes; `run` returns after every worker has left the loop.
        let task = unsafe { core::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let current = Loop { task, tasks };
        // SAFETY: we hold `calls`, and the previous loop is closed and empty.
        unsafe { *shared.current.get() = Some(current) };
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.state.load(Ordering::Relaxed) & !(NEXT - 1);
        shared.state.store(number.wrapping_add(NEXT) | OPEN, Ordering::SeqCst);
        shared.wake(tasks - 1);

        shared.claim(current);
        shared.close();
        // Inside this call nobody else can write the panic.
        let panic = lock(&shared.panic).take();
        drop(call);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        true
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.morning.notify_all();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of tasks and has none of its own.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Claims and runs tasks until none is left, or one panicked.
    fn claim(&self, current: Loop) {
        // SAFETY: the caller of `run` still waits: it is us, or we are counted as inside.
        let task = unsafe { &*current.task };
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= current.tasks {
                    break;
                }
                task(index);
            }
        }));
        if let Err(panic) = result {
            self.next.store(current.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Closes the loop and waits until nobody is inside.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        for _ in 0..SPINS {
            if state & INSIDE == 0 {
                return;
            }
            spin_loop();
            state = self.state.load(Ordering::Acquire);
        }
        let mut door = lock(&self.door);
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            door = self.left.wait(door).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes at most `wanted` sleepers.
    fn wake(&self, wanted: usize) {
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers == 0 {
            return;
        }
        // Whoever is counted but not yet asleep holds the lock until it is.
        drop(lock(&self.bed));
        for _ in 0..wanted.min(sleepers) {
            self.morning.notify_one();
        }
    }

    /// The life of a worker.
    fn work(&self) {
        let mut seen = 0;
        while let Some(state) = self.wait(seen) {
            seen = state >> 32;
            if self.enter(seen) {
                // SAFETY: we are inside, so `current` is this loop and is not written.
                let current = unsafe { *self.current.get() };
                if let Some(current) = current {
                    self.claim(current);
                }
                self.leave();
            }
        }
    }

    /// Enters loop `number` if it is still open.
    fn enter(&self, number: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state >> 32 == number && state & OPEN != 0 {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & (OPEN | INSIDE) == 1 {
            // Closed, and we were the last: the caller may be waiting at the door.
            drop(lock(&self.door));
            self.left.notify_one();
        }
    }

    /// Waits for an open loop other than `seen`; `None` at shutdown.
    fn wait(&self, seen: u64) -> Option<u64> {
        let open = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state >> 32 != seen).then_some(state)
        };
        for turn in 0..SPINS + YIELDS {
            if let Some(state) = open() {
                return Some(state);
            }
            if self.shutdown.load(Ordering::Relaxed) {
                return None;
            }
            if turn < SPINS { spin_loop() } else { yield_now() }
        }
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            // Asked again after we were counted: whoever opens a loop after this sees us.
            if self.shutdown.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(state) = open() {
                break Some(state);
            }
            bed = self.morning.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }
}
