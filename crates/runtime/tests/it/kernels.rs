//! One law suite for all kernels: whatever the instructions, tiles and threads, the bits are those
//! of the specification. The laws stand in the submodules as functions of a kernel; here they are
//! instantiated for each.
//!
//! A kernel that this machine lacks is skipped by name, unless `LOCKSTEP_EXPECT_KERNELS` (a list
//! such as `scalar,avx2,avxvnni,avx512`) says that it has to be there.

mod heads;
mod linear;
mod matrix;
mod neon;
mod pool;
mod vector;
mod wide;

use lockstep_runtime::kernels::{Kernel, KernelError};

/// Runs `law` on the kernel of that name.
fn check(name: &str, law: fn(Kernel)) {
    match name.parse::<Kernel>() {
        Ok(kernel) => law(kernel),
        Err(error) => {
            let expected = std::env::var("LOCKSTEP_EXPECT_KERNELS").unwrap_or_default();
            assert!(
                !expected.split(',').any(|expected| expected == name),
                "{error}, but LOCKSTEP_EXPECT_KERNELS is {expected}"
            );
            eprintln!("SKIP {name}: {error}");
        }
    }
}

macro_rules! laws {
    ($kernel:literal) => {
        laws! {
            $kernel:
            linear::dot_products_are_exact
            linear::long_rows_are_exact
            linear::batches_are_exact
            linear::extremes_do_not_saturate
            linear::random_shapes_agree
            linear::rows_are_independent
            linear::tokens_are_independent
            linear::outputs_follow_the_specification
            linear::outputs_reach_the_bounds
            linear::range_errors_are_the_first
            linear::planes_add_up
            vector::extents_hold_all_values
            vector::codes_follow_the_specification
            vector::hadamard_is_its_definition
            heads::scores_are_exact
            heads::weighted_sums_are_exact
        }
    };
    ($kernel:literal: $($module:ident::$law:ident)*) => {
        $(
            #[test]
            fn $law() {
                super::check($kernel, super::$module::$law);
            }
        )*
    };
}

mod scalar {
    laws!("scalar");
}
mod aarch64 {
    laws!("neon");
}
mod avx2 {
    laws!("avx2");
}
mod avxvnni {
    laws!("avxvnni");
}
mod avx512 {
    laws!("avx512");
}

/// The list of kernels that the other tests ran, for the log.
#[test]
fn kernels_of_this_machine() {
    let names: Vec<_> = Kernel::available().into_iter().map(Kernel::name).collect();
    eprintln!("kernels: {}", names.join(","));
    assert_eq!(names[0], "scalar");
    assert_eq!(Kernel::detect().name(), *names.last().expect("at least one"));
    let expected = std::env::var("LOCKSTEP_EXPECT_KERNELS").unwrap_or_default();
    for name in expected.split(',').filter(|name| !name.is_empty()) {
        assert!(names.contains(&name), "kernel {name} was expected, this machine has {names:?}");
    }
}

/// Names are read as they are printed; others are refused with what was got.
#[test]
fn kernel_names() {
    for kernel in Kernel::available() {
        assert_eq!(kernel.to_string().parse(), Ok(kernel));
    }
    for name in ["", "AVX2", "sve", "avx512 "] {
        assert_eq!(name.parse::<Kernel>(), Err(KernelError::Unknown { got: name.into() }));
    }
}
