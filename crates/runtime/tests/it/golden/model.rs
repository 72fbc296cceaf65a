//! A whole synthetic model: tokens in, logits and receipt roots out. These vectors pin everything
//! at once, formats of leaves and roots included; the other files say where a difference is.

use super::file::{Case, Out};
use crate::pipeline::{Job, answer, engine_over, logits};
use lockstep_base::Digest;
use lockstep_base::config::{FeedForward, Positions};
use lockstep_base::receipt::Receipt;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic::{model, small_config};

pub(super) fn compute(case: &Case<'_>, kernel: Kernel) -> Out {
    let input = &case.input;
    let mut config = small_config();
    if input.word("shape") == "plain" {
        config.positions = Positions::Learned;
        config.feed_forward = FeedForward::Plain;
    }
    let format = if input.word("format") == "int4" { WeightFormat::Int4 } else { WeightFormat::Int8 };
    let weights = model(&config, format, input.one::<u32>("seed").into());
    let engine = engine_over(weights, kernel, 1);
    let prompt: Vec<u32> = input.list("tokens");
    let bytes: Vec<u8> = logits(&engine, &prompt, &[prompt.len()], &mut Silent)
        .iter()
        .flat_map(|logit| logit.to_le_bytes())
        .collect();
    let job = Job::new(&prompt, input.one("answer"), input.one("stages"));
    let (file, _) = answer(&engine, job);
    let mut out = Out::default()
        .text("logits_sha256", &Digest::of(&[&bytes]).hex())
        .list("answer_tokens", &file.tokens[prompt.len()..]);
    for (stage, record) in file.stages.iter().enumerate() {
        for (span, signed) in record.receipts.iter().enumerate() {
            out = roots(out, &format!("stage{stage}.span{span}"), &signed.receipt);
        }
    }
    out
}

fn roots(out: Out, name: &str, receipt: &Receipt) -> Out {
    out.text(&format!("{name}.in"), &receipt.in_root.hex())
        .text(&format!("{name}.out"), &receipt.out_root.hex())
        .text(&format!("{name}.state"), &receipt.state_root.hex())
        .text(&format!("{name}.struct_hash"), &receipt.struct_hash().hex())
}
