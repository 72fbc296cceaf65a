//! A prover that lies, for any statement: what it commits to, what it says, and what a verifier makes of it.

use lockstep_base::net::Net;
use lockstep_proof::argument::prove::{Faces, prove_faces};
use lockstep_proof::argument::{Argument, Witness, prove, verify};
use lockstep_proof::decoder::{self, statement::Answer};
use lockstep_proof::error::VerifyError;
use lockstep_proof::field::{ProofField, Quintic};
use lockstep_proof::gadget::{Builder, Lie};
use lockstep_proof::net::statement::Statement;
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;

pub(crate) type Base = <Quintic as ProofField>::Base;

/// A statement with a witness, true or not.
pub(crate) struct Case<'a> {
    pub(crate) argument: Argument<'a, Quintic>,
    pub(crate) witness: Witness<Base>,
    /// Names and sizes of the values that a lie can be about.
    pub(crate) values: Vec<(String, usize)>,
    /// What comes out of the witness.
    pub(crate) outputs: Vec<i32>,
    /// How wide its values are said to be.
    pub(crate) declared: Vec<u8>,
    /// The first of what it is told to declare that nobody may.
    pub(crate) fault: Option<VerifyError>,
}

/// Somebody who lies, or not, and declares what its own witness needs, or what it is told to.
fn builder<'a>(limb_bits: u32, lie: Option<Lie>, declared: Option<&[u8]>) -> Builder<'a, Base> {
    match declared {
        Some(declared) => Builder::declaring(limb_bits, lie, declared),
        None => Builder::proving(limb_bits, lie),
    }
}

impl<'a> Case<'a> {
    /// That `net` gives `claimed`, with the witness of somebody who lies.
    pub(crate) fn claimed(
        net: &'a Net,
        input: &'a [i32],
        claimed: &'a [i32],
        lie: Option<Lie>,
        declared: Option<&[u8]>,
    ) -> Option<Case<'a>> {
        let statement = Statement::<Quintic>::new(net, input, claimed).ok()?;
        let mut builder = builder(statement.limb_bits(), lie, declared);
        let outputs = statement.build(&mut builder).into_iter().map(|y| y as i32).collect();
        let mut built = builder.finish();
        let (witness, values) =
            (built.witness.take().expect("a prover's"), core::mem::take(&mut built.values));
        let (declared, fault) = (built.declarations.clone(), built.fault.clone());
        let argument = statement.argument(built).expect("not too large");
        Some(Case { argument, witness, values, outputs, declared, fault })
    }

    /// That a model gives `answer`, with the witness of somebody who lies.
    pub(crate) fn answered(answer: Answer<'a>, lie: Option<Lie>, declared: Option<&[u8]>) -> Case<'a> {
        let statement = decoder::statement::Statement::<Quintic>::new(answer).expect("a statement");
        let mut builder = builder(decoder::statement::LIMB_BITS, lie, declared);
        statement.build(&mut builder, &[]);
        let mut built = builder.finish();
        let (witness, values) =
            (built.witness.take().expect("a prover's"), core::mem::take(&mut built.values));
        let (declared, fault) = (built.declarations.clone(), built.fault.clone());
        let argument = statement.argument(built).expect("not too large");
        Case { argument, witness, values, outputs: Vec::new(), declared, fault }
    }

    /// Whether a verifier accepts `witness`.
    pub(crate) fn check(&self, witness: &Witness<Base>) -> Result<(), VerifyError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let proof = prove::prove(&self.argument, witness).expect("no challenge is degenerate");
        verify::verify(&self.argument, &proof)
    }

    /// Whether a verifier accepts several faces.
    pub(crate) fn check_faces(&self, faces: Faces<'_, Base>) -> Result<(), VerifyError> {
        let proof = prove_faces(&self.argument, faces).expect("no challenge is degenerate");
        verify::verify(&self.argument, &proof)
    }

    /// Whether two witnesses are the same.
    pub(crate) fn says_the_same_as(&self, other: &Case<'_>) -> bool {
        self.witness.columns == other.witness.columns && self.witness.products == other.witness.products
    }

    /// The name of a column.
    pub(crate) fn name(&self, column: usize) -> &str {
        &self.argument.circuit.columns[column].name
    }
}

/// What the runtime computes.
pub(crate) fn outputs(net: &Net, input: &[i32]) -> Vec<i32> {
    run(&crate::support::compute(), net, input, &mut Silent).expect("it runs")
}
