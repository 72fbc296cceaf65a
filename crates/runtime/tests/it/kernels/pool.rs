//! Laws of the thread pool: every task once, nothing lost, nobody left waiting.

use lockstep_runtime::pool::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

fn counters(n: usize) -> Vec<AtomicU32> {
    (0..n).map(|_| AtomicU32::new(0)).collect()
}

fn assert_once_each(counters: &[AtomicU32], times: u32) {
    for (task, count) in counters.iter().enumerate() {
        assert_eq!(count.load(Ordering::Relaxed), times, "task {task}");
    }
}

/// Every task runs once, for any number of threads, also far more than there are cores, loop after
/// loop without a pause and with pauses in which the workers fall asleep.
#[test]
fn every_task_runs_once() {
    for threads in [0, 1, 2, 3, 8, 40] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 3, 7, 100] {
            let count = counters(tasks);
            for _ in 0..200 {
                pool.run(tasks, &|task| {
                    count[task].fetch_add(1, Ordering::Relaxed);
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert_once_each(&count, 200);
        }
    }
}

/// The caller sees what every task wrote.
#[test]
fn results_are_visible() {
    let pool = Pool::new(3);
    for round in 0..500 {
        let mut items = vec![0u64; 37];
        pool.for_each(&mut items, |item| *item += round);
        assert_eq!(items, [round; 37]);
    }
    let mut none: [String; 0] = [];
    pool.for_each(&mut none, |_| unreachable!());
}

/// Other threads do take part: a task waits for another that only another thread can run.
#[test]
fn threads_work_together() {
    let pool = Pool::new(3);
    let arrived = AtomicUsize::new(0);
    pool.run(3, &|_| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
    });
}

/// A loop inside a task runs in place, and so does one while another thread's is running.
#[test]
fn loops_may_nest_and_overlap() {
    let pool = Pool::new(3);
    let count = counters(60);
    pool.run(6, &|outer| {
        pool.run(10, &|inner| {
            count[outer * 10 + inner].fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_once_each(&count, 1);
    let count = counters(50);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.run(50, &|task| {
                        count[task].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_once_each(&count, 400);
}

/// A panic of a task reaches the caller, wherever the task ran, and the pool works on.
#[test]
fn panics_reach_the_caller() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads);
        for bad in [0, 1, 9] {
            let run = || pool.run(10, &|task| assert!(task != bad, "task {task} failed"));
            let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic is passed on");
            let message = panic.downcast::<String>().expect("a formatted message");
            assert_eq!(*message, format!("task {bad} failed"));
            let count = counters(20);
            pool.run(20, &|task| {
                count[task].fetch_add(1, Ordering::Relaxed);
            });
            assert_once_each(&count, 1);
        }
    }
}

/// Dropping a pool comes to an end, whether its workers spin, sleep or have just worked.
#[test]
fn dropping_joins() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for pause in [0, 0, 0, 1, 5] {
            let pool = Pool::new(4);
            pool.run(4, &|_| {});
            std::thread::sleep(std::time::Duration::from_millis(pause));
            drop(pool);
            drop(Pool::new(4));
        }
        done.send(()).expect("the test waits");
    });
    let minute = std::time::Duration::from_secs(60);
    assert_eq!(ended.recv_timeout(minute), Ok(()), "the pool was not joined");
}
