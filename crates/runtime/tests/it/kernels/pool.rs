//! Laws of the thread pool: every task once, nothing lost, nobody left waiting.

use lockstep_runtime::pool::{Pool, Rows};
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

/// Ranges are a partition, none shorter than the grain (but for want of numbers).
#[test]
fn ranges_partition() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads);
        for (n, grain) in [(0, 1), (1, 1), (1, 9), (17, 1), (100, 7), (100, 51), (9, 0)] {
            let count = counters(n);
            pool.ranges(n, grain, |range| {
                assert!(range.len() >= grain.clamp(1, n), "{range:?} of {n}, grain {grain}");
                range.for_each(|i| _ = count[i].fetch_add(1, Ordering::Relaxed));
            });
            assert_once_each(&count, 1);
        }
    }
}

/// Each row of several arrays is lent out once, with its number, and what is written stays.
#[test]
fn rows_are_disjoint() {
    for threads in [1, 3, 8] {
        let pool = Pool::new(threads);
        for (count, grain) in [(0, 1), (1, 1), (50, 1), (50, 20)] {
            let (mut wide, mut narrow, mut names) =
                (vec![1u64; count * 7], vec![0i8; count], vec![String::new(); 2 * count]);
            let rows = (Rows::new(&mut wide, 7), Rows::new(&mut narrow, 1), Rows::new(&mut names, 2));
            pool.rows_with(grain, rows, Vec::new, |seen, row, (wide, narrow, names)| {
                seen.push(row);
                wide.iter_mut().for_each(|x| *x += row as u64);
                narrow[0] += row as i8;
                names.iter_mut().for_each(|name| name.push_str(&format!("row {row}")));
                assert!(seen.is_sorted(), "a task goes through its rows in order");
            });
            for row in 0..count {
                assert_eq!(wide[7 * row..7 * row + 7], [1 + row as u64; 7]);
                assert_eq!(narrow[row], row as i8);
                assert_eq!(names[2 * row..2 * row + 2], [format!("row {row}"), format!("row {row}")]);
            }
        }
    }
}

/// Arrays that do not fit each other, or their width, are refused before anything runs.
#[test]
fn rows_must_fit() {
    let pool = Pool::new(2);
    let ragged = catch_unwind(|| drop(Rows::new(&mut [0; 7], 2)));
    assert!(ragged.is_err(), "7 values are no rows of 2");
    let differing = AssertUnwindSafe(|| {
        let (mut a, mut b) = ([0; 4], [0; 3]);
        pool.rows(1, (Rows::new(&mut a, 1), Rows::new(&mut b, 1)), |_, _| unreachable!());
    });
    assert!(catch_unwind(differing).is_err(), "4 rows and 3 rows");
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
