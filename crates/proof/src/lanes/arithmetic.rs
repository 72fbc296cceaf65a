//! The operations of lanes by the instructions that a task was given ([`Wide`]): the same results as the methods of [`Base`], [`Ext`] and `Sums`, which they are
//! where instructions have no products of words.
//!
//! A product is computed for even and for odd lanes, each in 64 bits, and both are reduced together:
//!
//! ```text
//! x = h 2^32 + l,   t = l / p mod 2^32,   x / 2^32 = h - floor(t p / 2^32) mod p
//! ```
//!
//! # No sum wraps
//! Four products are below `2^64`, and below `2^32 p` after one subtraction (`below`); three more are then below `2^64`. `reduced` takes what is below
//! `2^33 p`, that is four products, or one or two and what was below `2^32 p`.

pub use super::sums::Fixed;
use super::sums::Sums;
use super::{Base, Ext, P};
use lockstep_runtime::kernels::Wide;

/// `1 / p mod 2^32`.
const INVERSE: u32 = 0x8100_0001;

/// Coordinates in registers.
type Five<W> = [<W as Wide>::Words; 5];
/// Those, and the differences of them that a product needs: see [`Fixed`].
type Nine<W> = [<W as Wide>::Words; 9];
/// Even and odd lanes.
type Pair<W> = [<W as Wide>::Longs; 2];

#[inline(always)]
fn plus<W: Wide>(w: W, a: W::Words, b: W::Words) -> W::Words {
    let sum = w.add(a, b);
    w.min(sum, w.sub(sum, w.splat(P)))
}

#[inline(always)]
fn minus<W: Wide>(w: W, a: W::Words, b: W::Words) -> W::Words {
    let difference = w.sub(a, b);
    w.min(difference, w.add(difference, w.splat(P)))
}

/// The same modulo p, below `2^32 p`, of what is below `2^33 p`.
#[inline(always)]
fn below<W: Wide>(w: W, [even, odd]: Pair<W>) -> Pair<W> {
    let order = w.splat_long((P as u64) << 32);
    [w.less(even, order), w.less(odd, order)]
}

/// `x / 2^32 mod p`, for x below `2^33 p`.
#[inline(always)]
fn reduced<W: Wide>(w: W, [even, odd]: Pair<W>) -> W::Words {
    let (inverse, p) = (w.splat(INVERSE), w.splat(P));
    let (t, u) = (w.mul_low(even, inverse), w.mul_low(odd, inverse));
    let high = w.join(even, odd);
    minus(w, w.min(high, w.sub(high, p)), w.join(w.mul(t, p), w.mul(u, p)))
}

/// Sums of both parities.
#[inline(always)]
fn sum<W: Wide>(w: W, a: Pair<W>, b: Pair<W>) -> Pair<W> {
    [w.add_long(a[0], b[0]), w.add_long(a[1], b[1])]
}

/// What words hold in lanes, and the odd ones of them.
#[inline(always)]
fn both<W: Wide>(w: W, x: W::Words) -> [W::Words; 2] {
    [x, w.odd(x)]
}

#[inline(always)]
fn load<W: Wide>(w: W, x: &Ext) -> Five<W> {
    [w.load(&x.0[0]), w.load(&x.0[1]), w.load(&x.0[2]), w.load(&x.0[3]), w.load(&x.0[4])]
}

#[inline(always)]
fn store<W: Wide>(w: W, x: Five<W>) -> Ext {
    let mut out = Ext::ZERO;
    for at in 0..5 {
        w.store(x[at], &mut out.0[at]);
    }
    out
}

#[inline(always)]
fn nine<W: Wide>(w: W, b: Five<W>) -> Nine<W> {
    let (u, v, x) = (minus(w, b[1], b[4]), minus(w, b[0], b[3]), minus(w, b[4], b[2]));
    [b[0], b[1], b[2], b[3], b[4], u, v, x, minus(w, b[3], u)]
}

#[inline(always)]
fn odd_five<W: Wide>(w: W, x: Five<W>) -> Five<W> {
    [w.odd(x[0]), w.odd(x[1]), w.odd(x[2]), w.odd(x[3]), w.odd(x[4])]
}

#[inline(always)]
fn odd_nine<W: Wide>(w: W, x: Nine<W>) -> Nine<W> {
    let [a, b, c, d, e, f, g, h, i] = x;
    [w.odd(a), w.odd(b), w.odd(c), w.odd(d), w.odd(e), w.odd(f), w.odd(g), w.odd(h), w.odd(i)]
}

/// What each coordinate of a product multiplies the other factor with.
#[inline(always)]
fn columns<W: Wide>(b: Nine<W>) -> [Five<W>; 5] {
    let [b0, b1, b2, b3, b4, u, v, x, z] = b;
    [[b0, b4, b3, b2, u], [b1, b0, b4, b3, b2], [b2, u, v, x, z], [b3, b2, u, v, x], [b4, b3, b2, u, v]]
}

/// Four products, below `2^64`.
#[inline(always)]
fn four<W: Wide>(w: W, a: &Five<W>, b: &Five<W>) -> W::Longs {
    let (first, second) =
        (w.add_long(w.mul(a[0], b[0]), w.mul(a[1], b[1])), (w.mul(a[2], b[2]), w.mul(a[3], b[3])));
    w.add_long(first, w.add_long(second.0, second.1))
}

/// A factor of products: even and odd lanes.
struct Factor<W: Wide>([Five<W>; 2]);

/// The other one.
struct Other<W: Wide>([[Five<W>; 5]; 2]);

impl<W: Wide> Factor<W> {
    #[inline(always)]
    fn new(w: W, x: Five<W>) -> Factor<W> {
        Factor([x, odd_five(w, x)])
    }

    /// Four of five products of coordinate `at`.
    #[inline(always)]
    fn four(&self, w: W, other: &Other<W>, at: usize) -> Pair<W> {
        [four(w, &self.0[0], &other.0[0][at]), four(w, &self.0[1], &other.0[1][at])]
    }

    /// The fifth.
    #[inline(always)]
    fn last(&self, w: W, other: &Other<W>, at: usize) -> Pair<W> {
        [w.mul(self.0[0][4], other.0[0][at][4]), w.mul(self.0[1][4], other.0[1][at][4])]
    }

    /// A coordinate of the product.
    #[inline(always)]
    fn dot(&self, w: W, other: &Other<W>, at: usize) -> W::Words {
        reduced(w, sum(w, below(w, self.four(w, other, at)), self.last(w, other, at)))
    }
}

impl<W: Wide> Other<W> {
    #[inline(always)]
    fn new(w: W, x: Five<W>) -> Other<W> {
        let nine = nine(w, x);
        Other([columns::<W>(nine), columns::<W>(odd_nine(w, nine))])
    }

    /// The same element in all lanes.
    #[inline(always)]
    fn fixed(w: W, x: &Fixed) -> Other<W> {
        let [a, b, c, d, e, f, g, h, i] = x.0;
        let all = [
            w.splat(a),
            w.splat(b),
            w.splat(c),
            w.splat(d),
            w.splat(e),
            w.splat(f),
            w.splat(g),
            w.splat(h),
            w.splat(i),
        ];
        let columns = columns::<W>(all);
        Other([columns, columns])
    }
}

#[inline(always)]
fn product<W: Wide>(w: W, a: &Factor<W>, b: &Other<W>) -> Five<W> {
    [a.dot(w, b, 0), a.dot(w, b, 1), a.dot(w, b, 2), a.dot(w, b, 3), a.dot(w, b, 4)]
}

/// Sums.
#[inline(always)]
#[must_use]
pub fn add<W: Wide>(w: W, a: &Ext, b: &Ext) -> Ext {
    if !W::NATIVE {
        return a.add(b);
    }
    let (a, b) = (load(w, a), load(w, b));
    store(
        w,
        [
            plus(w, a[0], b[0]),
            plus(w, a[1], b[1]),
            plus(w, a[2], b[2]),
            plus(w, a[3], b[3]),
            plus(w, a[4], b[4]),
        ],
    )
}

#[inline(always)]
fn differences<W: Wide>(w: W, a: Five<W>, b: Five<W>) -> Five<W> {
    [
        minus(w, a[0], b[0]),
        minus(w, a[1], b[1]),
        minus(w, a[2], b[2]),
        minus(w, a[3], b[3]),
        minus(w, a[4], b[4]),
    ]
}

/// Differences.
#[inline(always)]
#[must_use]
pub fn sub<W: Wide>(w: W, a: &Ext, b: &Ext) -> Ext {
    if !W::NATIVE {
        return a.sub(b);
    }
    store(w, differences(w, load(w, a), load(w, b)))
}

/// Products.
#[inline(always)]
#[must_use]
pub fn mul<W: Wide>(w: W, a: &Ext, b: &Ext) -> Ext {
    if !W::NATIVE {
        return a.mul(b);
    }
    store(w, product(w, &Factor::new(w, load(w, a)), &Other::new(w, load(w, b))))
}

/// `a b + c d`.
#[inline(always)]
#[must_use]
pub fn products<W: Wide>(w: W, [a, b, c, d]: [&Ext; 4]) -> Ext {
    if !W::NATIVE {
        return a.products(b, c, d);
    }
    let (a, b) = (Factor::new(w, load(w, a)), Other::new(w, load(w, b)));
    let (c, d) = (Factor::new(w, load(w, c)), Other::new(w, load(w, d)));
    let mut out = Ext::ZERO;
    for at in 0..5 {
        let fours = sum(w, below(w, a.four(w, &b, at)), below(w, c.four(w, &d, at)));
        let last = sum(w, a.last(w, &b, at), c.last(w, &d, at));
        w.store(reduced(w, sum(w, below(w, fours), last)), &mut out.0[at]);
    }
    out
}

/// Products with one element.
#[inline(always)]
#[must_use]
pub fn times<W: Wide>(w: W, a: &Ext, factor: &Fixed) -> Ext {
    if !W::NATIVE {
        return a.times(factor);
    }
    store(w, product(w, &Factor::new(w, load(w, a)), &Other::fixed(w, factor)))
}

/// `a + r (b - a)`.
#[inline(always)]
#[must_use]
pub fn toward<W: Wide>(w: W, a: &Ext, b: &Ext, r: &Fixed) -> Ext {
    if !W::NATIVE {
        return a.toward(b, r);
    }
    let low = load(w, a);
    let step = product(w, &Factor::new(w, differences(w, load(w, b), low)), &Other::fixed(w, r));
    store(
        w,
        [
            plus(w, low[0], step[0]),
            plus(w, low[1], step[1]),
            plus(w, low[2], step[2]),
            plus(w, low[3], step[3]),
            plus(w, low[4], step[4]),
        ],
    )
}

/// `x factor`, the same factor in all lanes, of the base field.
#[inline(always)]
fn multiple<W: Wide>(w: W, x: W::Words, factor: W::Words) -> W::Words {
    let [even, odd] = [w.mul(x, factor), w.mul(w.odd(x), factor)];
    let (inverse, p) = (w.splat(INVERSE), w.splat(P));
    let (t, u) = (w.mul_low(even, inverse), w.mul_low(odd, inverse));
    minus(w, w.join(even, odd), w.join(w.mul(t, p), w.mul(u, p)))
}

/// Two layers of butterflies over four places: `a + c`, `(a - c) t0`, `b + d` and `(b - d) t1`, then the same of the first two, and of the others, with t2.
#[inline(always)]
#[must_use]
pub fn butterflies<W: Wide>(w: W, x: [&Base; 4], t: [u32; 3]) -> [Base; 4] {
    let mut out = [Base::ZERO; 4];
    if !W::NATIVE {
        for lane in 0..super::LANES {
            let [a, b, c, d] = [x[0].0[lane], x[1].0[lane], x[2].0[lane], x[3].0[lane]];
            let (c, a) = (super::reduce(super::wide(super::sub(a, c), t[0])), super::add(a, c));
            let (d, b) = (super::reduce(super::wide(super::sub(b, d), t[1])), super::add(b, d));
            out[0].0[lane] = super::add(a, b);
            out[1].0[lane] = super::reduce(super::wide(super::sub(a, b), t[2]));
            out[2].0[lane] = super::add(c, d);
            out[3].0[lane] = super::reduce(super::wide(super::sub(c, d), t[2]));
        }
        return out;
    }
    let [a, b, c, d] = [w.load(&x[0].0), w.load(&x[1].0), w.load(&x[2].0), w.load(&x[3].0)];
    let t = [w.splat(t[0]), w.splat(t[1]), w.splat(t[2])];
    let (c, a) = (multiple(w, minus(w, a, c), t[0]), plus(w, a, c));
    let (d, b) = (multiple(w, minus(w, b, d), t[1]), plus(w, b, d));
    w.store(plus(w, a, b), &mut out[0].0);
    w.store(multiple(w, minus(w, a, b), t[2]), &mut out[1].0);
    w.store(plus(w, c, d), &mut out[2].0);
    w.store(multiple(w, minus(w, c, d), t[2]), &mut out[3].0);
    out
}

/// `x factor`, the same factor in all lanes.
#[inline(always)]
#[must_use]
pub fn scaled_base<W: Wide>(w: W, x: &Base, factor: u32) -> Base {
    let mut out = Base::ZERO;
    if !W::NATIVE {
        for lane in 0..super::LANES {
            out.0[lane] = super::reduce(super::wide(x.0[lane], factor));
        }
        return out;
    }
    w.store(multiple(w, w.load(&x.0), w.splat(factor)), &mut out.0);
    out
}

/// Products of the base field.
#[inline(always)]
#[must_use]
pub fn mul_base<W: Wide>(w: W, a: &Base, b: &Base) -> Base {
    if !W::NATIVE {
        return a.mul(b);
    }
    let (a, b) = (both(w, w.load(&a.0)), both(w, w.load(&b.0)));
    let mut out = Base::ZERO;
    w.store(reduced(w, [w.mul(a[0], b[0]), w.mul(a[1], b[1])]), &mut out.0);
    out
}

/// `a b + c d` of the base field.
#[inline(always)]
#[must_use]
pub fn products_base<W: Wide>(w: W, [a, b, c, d]: [&Base; 4]) -> Base {
    if !W::NATIVE {
        return a.products(b, c, d);
    }
    let (a, b) = (both(w, w.load(&a.0)), both(w, w.load(&b.0)));
    let (c, d) = (both(w, w.load(&c.0)), both(w, w.load(&d.0)));
    let mut out = Base::ZERO;
    let (first, second) = ([w.mul(a[0], b[0]), w.mul(a[1], b[1])], [w.mul(c[0], d[0]), w.mul(c[1], d[1])]);
    w.store(reduced(w, sum(w, first, second)), &mut out.0);
    out
}

/// `a x`, x of the base field.
#[inline(always)]
#[must_use]
pub fn scale<W: Wide>(w: W, a: &Ext, x: &Base) -> Ext {
    if !W::NATIVE {
        return a.scale(x);
    }
    let x = both(w, w.load(&x.0));
    let mut out = Ext::ZERO;
    for at in 0..5 {
        let a = both(w, w.load(&a.0[at]));
        w.store(reduced(w, [w.mul(a[0], x[0]), w.mul(a[1], x[1])]), &mut out.0[at]);
    }
    out
}

/// Sums of products: `Sums`, or each below `2^32 p` for even and odd lanes.
#[derive(Clone, Copy, Debug)]
pub struct Total<W: Wide> {
    plain: Sums,
    wide: [Pair<W>; 5],
}

impl<W: Wide> Total<W> {
    /// Zeros.
    #[inline(always)]
    #[must_use]
    pub fn zero(w: W) -> Total<W> {
        let zero = [w.splat_long(0), w.splat_long(0)];
        Total { plain: Sums::ZERO, wide: [zero; 5] }
    }

    /// Adds `a factor`.
    #[inline(always)]
    pub fn add_times(&mut self, w: W, a: &Ext, factor: &Fixed) {
        if !W::NATIVE {
            return self.plain.add_times(a, factor);
        }
        let (a, b) = (Factor::new(w, load(w, a)), Other::fixed(w, factor));
        for at in 0..5 {
            let four = below(w, sum(w, self.wide[at], below(w, a.four(w, &b, at))));
            self.wide[at] = below(w, sum(w, four, a.last(w, &b, at)));
        }
    }

    /// Adds `factor x`, the factor being the same in all lanes.
    #[inline(always)]
    pub fn add_multiples(&mut self, w: W, factor: &[u32; 5], x: &Base) {
        if !W::NATIVE {
            return self.plain.add_multiples(factor, x);
        }
        let x = both(w, w.load(&x.0));
        for at in 0..5 {
            let factor = w.splat(factor[at]);
            let here = [w.mul(x[0], factor), w.mul(x[1], factor)];
            self.wide[at] = below(w, sum(w, self.wide[at], here));
        }
    }

    /// Adds `factor x`.
    #[inline(always)]
    pub fn add_scaled(&mut self, w: W, factor: &Ext, x: &Base) {
        if !W::NATIVE {
            return self.plain.add_scaled(factor, x);
        }
        let x = both(w, w.load(&x.0));
        for at in 0..5 {
            let factor = both(w, w.load(&factor.0[at]));
            let here = [w.mul(factor[0], x[0]), w.mul(factor[1], x[1])];
            self.wide[at] = below(w, sum(w, self.wide[at], here));
        }
    }

    /// What they stand for.
    #[inline(always)]
    #[must_use]
    pub fn reduce(&self, w: W) -> Ext {
        if !W::NATIVE {
            return self.plain.reduce();
        }
        let mut out = Ext::ZERO;
        for at in 0..5 {
            w.store(reduced(w, self.wide[at]), &mut out.0[at]);
        }
        out
    }
}

/// `constant + sum of factor * column`, as many columns as there are of both.
#[inline(always)]
#[must_use]
pub fn combined<W: Wide>(w: W, constant: &Ext, factors: &[Ext], columns: &[Base]) -> Ext {
    if !W::NATIVE {
        let mut sums = Sums::of(constant);
        for at in 0..factors.len() {
            sums.add_scaled(&factors[at], &columns[at]);
        }
        return sums.reduce();
    }
    let zero = w.splat_long(0);
    let mut sums = [[zero; 2]; 5];
    for (number, factor) in factors.iter().enumerate() {
        let x = both(w, w.load(&columns[number].0));
        for at in 0..5 {
            let factor = both(w, w.load(&factor.0[at]));
            let here = [w.mul(factor[0], x[0]), w.mul(factor[1], x[1])];
            let before = if number % 2 == 1 && number > 1 { below(w, sums[at]) } else { sums[at] };
            sums[at] = sum(w, before, here);
        }
    }
    let constant = load(w, constant);
    let mut out = Ext::ZERO;
    for at in 0..5 {
        let rest = if factors.len() > 4 { below(w, sums[at]) } else { sums[at] };
        w.store(plus(w, constant[at], reduced(w, rest)), &mut out.0[at]);
    }
    out
}

/// Sums of products of elements with small integers, which nobody has to keep small.
#[derive(Clone, Copy, Debug)]
pub struct LongSums<W: Wide>([Pair<W>; 5]);

impl<W: Wide> LongSums<W> {
    /// Zeros.
    #[inline(always)]
    #[must_use]
    pub fn zero(w: W) -> LongSums<W> {
        LongSums([[w.splat_long(0); 2]; 5])
    }

    /// Adds `factor x`, the factor being the same in all lanes.
    #[inline(always)]
    pub fn add(&mut self, w: W, factor: &[u32; 5], x: &[u32; 16]) {
        let x = both(w, w.load(x));
        for at in 0..5 {
            let factor = w.splat(factor[at]);
            self.0[at] = sum(w, self.0[at], [w.mul(x[0], factor), w.mul(x[1], factor)]);
        }
    }

    /// `2^-32` of them, of sums below `2^33 p`.
    #[inline(always)]
    #[must_use]
    pub fn reduce(&self, w: W) -> Ext {
        let mut out = Ext::ZERO;
        for at in 0..5 {
            w.store(reduced(w, self.0[at]), &mut out.0[at]);
        }
        out
    }
}
