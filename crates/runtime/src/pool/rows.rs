//! Loops over the rows of one or several arrays, each row lent out for writing to the one task that
//! computes it. What a batch is made of: `(tokens, width)` arrays of different widths, one row of
//! each a token.
//!
//! ```
//! use lockstep_runtime::pool::{Pool, Rows};
//!
//! let x = [3, -4, 1, 7, 0, 2];
//! let (mut doubled, mut sums) = ([0; 6], [0; 3]);
//! let rows = (Rows::new(&mut doubled, 2), Rows::new(&mut sums, 1));
//! Pool::new(2).rows(1, rows, |row, (doubled, sum)| {
//!     doubled.iter_mut().zip(&x[2 * row..]).for_each(|(y, x)| *y = 2 * x);
//!     sum[0] = doubled.iter().sum();
//! });
//! assert_eq!((doubled, sums), ([6, -8, 2, 14, 0, 4], [-2, 16, 4]));
//! ```

use super::Pool;
use core::marker::PhantomData;
use core::ops::Range;

/// Tasks per thread: enough that a thread that was held up costs a fraction of the whole.
const TASKS_PER_THREAD: usize = 4;

/// An array as rows of equal width, to be written by [`Pool::rows`].
#[derive(Debug)]
pub struct Rows<'a, T> {
    start: *mut T,
    width: usize,
    count: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is reached through `Split::row` alone, whose callers take each row once; the
// values may change threads.
unsafe impl<T: Send> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// `data` as rows of `width` values.
    ///
    /// # Panics
    /// If it is not a whole number of rows, or `width` is 0.
    #[must_use]
    pub fn new(data: &'a mut [T], width: usize) -> Rows<'a, T> {
        let len = data.len();
        assert!(width > 0 && len.is_multiple_of(width), "{len} values, expected rows of {width}");
        Rows { start: data.as_mut_ptr(), width, count: len / width, borrowed: PhantomData }
    }
}

/// What [`Pool::rows`] takes apart: [`Rows`], or a tuple of things that can be taken apart.
pub trait Split: Sync {
    /// One row: `&mut [T]`, or a tuple of such.
    type Row;

    /// How many rows there are.
    ///
    /// # Panics
    /// If the members of a tuple have different counts.
    fn count(&self) -> usize;

    /// Row `row`.
    ///
    /// # Safety
    /// Each row is taken once at most.
    ///
    /// # Panics
    /// If there are not as many rows.
    unsafe fn row(&self, row: usize) -> Self::Row;
}

impl<'a, T: Send> Split for Rows<'a, T> {
    type Row = &'a mut [T];

    fn count(&self) -> usize {
        self.count
    }

    // SAFETY: the caller takes each row once at most.
    unsafe fn row(&self, row: usize) -> &'a mut [T] {
        assert!(row < self.count, "row {row} of {}", self.count);
        // SAFETY: inside the slice, which is borrowed for 'a, and nobody else has this row: by the
        // assertion, and by the caller's word.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(row * self.width), self.width) }
    }
}

macro_rules! split_tuples {
    ($(($first:ident $(, $part:ident)*))*) => {$(
        #[allow(non_snake_case)]
        impl<$first: Split $(, $part: Split)*> Split for ($first, $($part,)*) {
            type Row = ($first::Row, $($part::Row,)*);

            fn count(&self) -> usize {
                let ($first, $($part,)*) = self;
                let count = $first.count();
                $(assert_eq!($part.count(), count, "arrays of as many rows");)*
                count
            }

            // SAFETY: the caller takes each row once at most.
            unsafe fn row(&self, row: usize) -> Self::Row {
                let ($first, $($part,)*) = self;
                // SAFETY: so is each row of the parts.
                unsafe { ($first.row(row), $($part.row(row),)*) }
            }
        }
    )*};
}
split_tuples! { (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

impl Pool {
    /// Calls `f(row, slices)` for each row of `data`, in any order and on any thread, as
    /// [`Pool::run`] does. `grain` is the fewest rows that are worth a task of their own: where
    /// there are not twice as many, everything runs in place.
    ///
    /// # Panics
    /// If the arrays differ in their number of rows, and with the panic of `f`.
    pub fn rows<D: Split>(&self, grain: usize, data: D, f: impl Fn(usize, D::Row) + Sync) {
        self.rows_with(grain, data, || (), |(), row, slices| f(row, slices));
    }

    /// [`Pool::rows`] with something that a task makes once and its rows share: scratch memory.
    ///
    /// # Panics
    /// As [`Pool::rows`].
    #[allow(clippy::needless_pass_by_value)] // Taken, so that nobody else can take a row.
    pub fn rows_with<D: Split, S>(
        &self,
        grain: usize,
        data: D,
        scratch: impl Fn() -> S + Sync,
        f: impl Fn(&mut S, usize, D::Row) + Sync,
    ) {
        self.ranges(data.count(), grain, |range| {
            let mut scratch = scratch();
            for row in range {
                // SAFETY: `ranges` gives each number once, and `data` is not used besides.
                f(&mut scratch, row, unsafe { data.row(row) });
            }
        });
    }

    /// Calls `f` on ranges that partition `0..count`, each of `grain` numbers at least (where there
    /// are as many), as [`Pool::run`] does.
    pub fn ranges(&self, count: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
        let most = if self.threads() == 1 { 1 } else { self.threads() * TASKS_PER_THREAD };
        let tasks = (count / grain.max(1)).clamp(usize::from(count > 0), most);
        self.run(tasks, &|task| f(task * count / tasks..(task + 1) * count / tasks));
    }
}
