//! `lockstep embed`: texts to vectors, with an encoder.
//!
//! What is exact is the vector of integers; the printed one is the same scaled to length one, for programs
//! that compare texts by dot product.

use super::CommandResult;
use super::compute::ComputeArgs;
use crate::bundles;
use crate::output::Progress;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_runtime::forward::Engine;
use serde_json::json;
use std::error::Error;
use std::io::{self, BufRead as _, Read as _, Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of all texts from standard input.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Turn texts into vectors with an encoder such as all-MiniLM-L6-v2.
///
/// One JSON object a text, in order: the text's tokens, the vector of length one, and with --integers the
/// exact integers that it was made of (fractional bits: integer_frac). Without --text each line of
/// standard input is a text. Texts longer than the model's context are refused.
///
/// Examples:
///   lockstep import all-MiniLM-L6-v2/ --out minilm.lockstep
///   lockstep embed minilm.lockstep --text "a small boat" --text "a ship at sea"
///   lockstep embed minilm.lockstep --similarity --text "a small boat" --text "a ship at sea"
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct EmbedArgs {
    /// Bundle of an encoder
    bundle: PathBuf,
    /// A text; may be given more than once
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// Print the integers too
    #[arg(long)]
    integers: bool,
    /// Print the table of cosines between all texts instead of vectors
    #[arg(long)]
    similarity: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: EmbedArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let bundle = bundles::open(Some(&args.bundle))?;
    if bundle.config().pooling.is_none() {
        let name = &bundle.config().name;
        return Err(
            format!("{name} is a decoder, expected an encoder; `lockstep run` generates with it").into()
        );
    }
    let texts = if args.texts.is_empty() { read_texts()? } else { args.texts };
    let (engine, tokenizer) = load(&bundle, compute)?;
    let frac = engine.weights.config.residual_frac;
    let bar = Progress::new("embedding", texts.len() as u64, false);
    let mut vectors = Vec::with_capacity(texts.len());
    let mut out = stdout().lock();
    for text in &texts {
        let tokens = framed(&tokenizer, text)?;
        let integers = engine.encode(&tokens)?;
        let vector = unit(&integers);
        if !args.similarity {
            let mut object = json!({ "text": text, "tokens": tokens.len(), "embedding": vector });
            if args.integers {
                object["integers"] = json!(integers);
                object["integer_frac"] = json!(frac);
            }
            writeln!(out, "{object}")?;
        }
        vectors.push(vector);
        bar.count();
    }
    bar.finish();
    if args.similarity {
        for (at, a) in vectors.iter().enumerate() {
            let cosines: Vec<String> = vectors.iter().map(|b| format!("{:7.4}", dot(a, b))).collect();
            writeln!(out, "{}  {}", cosines.join(" "), texts[at])?;
        }
    }
    Ok(())
}

fn load(
    bundle: &Bundle,
    compute: Arc<lockstep_runtime::kernels::Compute>,
) -> Result<(Engine, Tokenizer), Box<dyn Error>> {
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    Ok((Engine::new(Arc::new(weights), compute), bundle.tokenizer()?))
}

/// The tokens of a text between those that the encoder was trained with: `[CLS]`, which is bos, and `[SEP]`, eos.
pub(super) fn framed(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    let mut tokens = tokenizer.encode(text, tokenizer.bos().is_some())?;
    tokens.extend(tokenizer.eos().first());
    Ok(tokens)
}

fn read_texts() -> Result<Vec<String>, Box<dyn Error>> {
    let mut texts = Vec::new();
    let mut read = 0;
    for line in io::stdin().lock().take(INPUT_BYTES_MAX + 1).lines() {
        let line = line?;
        read += line.len() as u64 + 1;
        if read > INPUT_BYTES_MAX {
            return Err(format!("standard input has more than {INPUT_BYTES_MAX} bytes").into());
        }
        texts.push(line);
    }
    Ok(texts)
}

/// `x` scaled to length one; zeros stay zeros.
fn unit(x: &[i32]) -> Vec<f32> {
    let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    x.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
