//! Bundles whose hashes are right and whose contents are not: their maker is the adversary.

use crate::quantise_models::{bundle_of, integers, llama};
use lockstep_base::cbor;
use lockstep_base::manifest::{Entry, EntryKind, blob_root, model_root};
use lockstep_base::part::Part;
use lockstep_base::weights::{ModelWeights, Region};
use lockstep_model::bundle::{Bundle, BundleError, HEADER_BYTES, Placed};
use lockstep_model::quantise::WeightFormat;
use lockstep_model::source::Ffn;
use proptest::prelude::*;

/// A header over `manifest`, then `rest`; lengths and root as they are.
fn file(manifest: &[u8], rest: &[u8], root: [u8; 32]) -> Vec<u8> {
    let mut bytes = b"lockstep".to_vec();
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((manifest.len() as u64).to_le_bytes());
    bytes.extend(((HEADER_BYTES + manifest.len() + rest.len()) as u64).to_le_bytes());
    bytes.extend(root);
    bytes.extend(manifest);
    bytes.extend(rest);
    bytes
}

/// The good bundle with its entries changed: everything is re-hashed, so only the content is wrong.
fn forged(change: impl FnOnce(&mut Vec<(Entry, Vec<u8>)>)) -> Vec<u8> {
    let good = good();
    let bundle = Bundle::from_bytes(good.clone()).unwrap();
    let bytes_of = |placed: &Placed| good[placed.offset as usize..][..placed.entry.bytes as usize].to_vec();
    let mut entries: Vec<(Entry, Vec<u8>)> =
        bundle.entries().iter().map(|placed| (placed.entry.clone(), bytes_of(placed))).collect();
    change(&mut entries);
    placed(&entries, |_, offset| offset)
}

/// Lays entries out, with offsets as `place` says instead of where they are.
fn placed(entries: &[(Entry, Vec<u8>)], place: impl Fn(&Entry, u64) -> u64) -> Vec<u8> {
    let only: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
    let root = model_root(&only).map_or([0; 32], |root| root.0);
    let mut length = 0;
    loop {
        let mut rest = Vec::new();
        let mut list = Vec::new();
        for (entry, bytes) in entries {
            let from = (HEADER_BYTES + length + rest.len()).next_multiple_of(64);
            rest.resize(from - HEADER_BYTES - length, 0);
            list.push(Placed { entry: entry.clone(), offset: place(entry, from as u64) });
            rest.extend(bytes);
        }
        let manifest = cbor::encode(&list);
        if manifest.len() == length {
            return file(&manifest, &rest, root);
        }
        length = manifest.len();
    }
}

fn good_weights() -> ModelWeights {
    integers(&llama(1), WeightFormat::Int4, 9).0
}

fn good() -> Vec<u8> {
    bundle_of(&good_weights())
}

fn entry<'a>(entries: &'a mut [(Entry, Vec<u8>)], name: &str) -> &'a mut (Entry, Vec<u8>) {
    entries.iter_mut().find(|(entry, _)| entry.name == name).unwrap()
}

fn set_blob(entry: &mut (Entry, Vec<u8>), bytes: Vec<u8>) {
    entry.0.bytes = bytes.len() as u64;
    entry.0.root = blob_root(&bytes);
    entry.1 = bytes;
}

fn open_error(bytes: Vec<u8>) -> String {
    Bundle::from_bytes(bytes).expect_err("must be refused at opening").to_string()
}

/// The helper itself makes good bundles, so that every refusal below is for the stated reason.
#[test]
fn an_unchanged_forgery_is_the_bundle() {
    assert!(forged(|_| ()) == good());
}

#[test]
fn manifests_that_lie_are_refused() {
    let huge_count = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(
        open_error(file(&huge_count, &[], [0; 32])).starts_with("manifest of 9 bytes"),
        "a count of 2^63"
    );
    assert_eq!(
        open_error(file(&[0x80], &[], [0; 32])),
        "manifest: a manifest has 0 entries, expected 1 to 4096"
    );
    let nested = vec![0x81; 100_000];
    assert!(open_error(file(&nested, &[], [0; 32])).starts_with("manifest of 100000 bytes"), "deep nesting");

    let swapped = open_error(forged(|entries| entries.swap(3, 4)));
    assert!(swapped.contains("expected strictly increasing names"), "{swapped}");
    let twice = open_error(forged(|entries| entries.insert(3, entries[3].clone())));
    assert!(twice.contains("expected strictly increasing names"), "{twice}");
    let overflow = open_error(forged(|entries| entry(entries, "embed").0.bytes = u64::MAX));
    assert_eq!(overflow, format!("manifest: entry embed has {} bytes, which no file can hold", u64::MAX));
    let long = open_error(forged(|entries| entries.last_mut().unwrap().0.bytes += 1));
    assert!(long.contains("its manifest says"), "{long}");
    let missing =
        open_error(forged(|entries| entries.retain(|(entry, _)| entry.name != "layers.0001.k_center")));
    assert_eq!(missing, "entry layers.0001.k_center is missing");
    let unexpected = open_error(forged(|entries| entry(entries, "tokenizer").0.name = "tokenizes".into()));
    assert_eq!(unexpected, "entry tokenizes is not part of a model of this configuration");
}

/// There is one layout: an entry that overlaps another, lies inside the manifest or beyond the end is refused.
#[test]
fn offsets_are_never_trusted() {
    let good = Bundle::from_bytes(good()).unwrap();
    let entries: Vec<(Entry, Vec<u8>)> = {
        let bytes = self::good();
        good.entries()
            .iter()
            .map(|p| (p.entry.clone(), bytes[p.offset as usize..][..p.entry.bytes as usize].to_vec()))
            .collect()
    };
    for wrong in [0, 64, 128, 1 << 20, 1 << 40, u64::MAX] {
        let error = open_error(placed(&entries, |entry, at| if entry.name == "head" { wrong } else { at }));
        assert!(
            error.starts_with(&format!("manifest: entry head lies at offset {wrong}, expected ")),
            "{error}"
        );
    }
}

#[test]
fn shapes_that_do_not_fit_the_configuration_are_refused() {
    let rows = open_error(forged(|entries| {
        let EntryKind::Linear { rows, .. } = &mut entry(entries, "layers.0000.up").0.kind else { panic!() };
        *rows = u32::MAX;
    }));
    assert_eq!(
        rows,
        "entry layers.0000.up is a linear layer of 4294967295 x 32 in 4 bits, expected a linear layer of 44 x 32 in 16, 8 or 4 bits"
    );
    let bits = open_error(forged(|entries| {
        let EntryKind::Linear { bits, .. } = &mut entry(entries, "head").0.kind else { panic!() };
        *bits = 4;
    }));
    assert!(bits.starts_with("entry head has "), "{bits}");
    let kind = open_error(forged(|entries| entry(entries, "embed").0.kind = EntryKind::Blob));
    assert_eq!(kind, "entry embed is a blob, expected an embedding of 50 x 24");
    let table = open_error(forged(|entries| set_blob(entry(entries, "tables/exp2"), vec![0; 8190])));
    assert_eq!(table, "entry tables/exp2 has 8190 bytes, expected 8192");
    let int4 = open_error(forged(|entries| set_blob(entry(entries, "tables/int4"), vec![0; 40])));
    assert_eq!(int4, "entry tables/int4 has 40 bytes, expected 32");
}

/// Every number of the configuration is checked before it sizes anything.
#[test]
fn configurations_out_of_range_are_refused() {
    let with = |change: &dyn Fn(&mut lockstep_base::config::ModelConfig)| {
        let mut config = good_weights().config;
        change(&mut config);
        open_error(forged(|entries| set_blob(entry(entries, "config"), cbor::encode(&config))))
    };
    assert!(with(&|c| c.d_ffn = u32::MAX).starts_with("entry config: d_ffn is 4294967295"));
    assert!(with(&|c| c.head_dim = u32::MAX - 1).starts_with("entry config: head_dim"));
    assert!(with(&|c| c.n_layers = 1 << 30).starts_with("entry config: n_layers"));
    assert!(with(&|c| c.n_kv_heads = 0).starts_with("entry config: n_kv_heads"));
    assert!(with(&|c| c.context = 131_073).starts_with("entry config: context"));
    assert!(with(&|c| c.eos = vec![50]).starts_with("entry config: special token is 50"));
    assert!(with(&|c| c.opset = "lockstep-0".into()).contains("opset \"lockstep-0\" is not supported"));
    assert!(with(&|c| c.n_layers = 3).starts_with("entry layers.0002."), "a layer that is not there");
    let garbage = open_error(forged(|entries| set_blob(entry(entries, "config"), vec![0xff; 30])));
    assert!(garbage.starts_with("entry config: not a valid config"), "{garbage}");
}

/// Numbers that would make the runtime wrap, index outside or divide by zero: refused with tensor and row.
#[test]
fn tensors_that_would_break_the_runtime_are_refused() {
    let load_error = |change: &dyn Fn(&mut ModelWeights)| {
        let mut weights = good_weights();
        change(&mut weights);
        let bundle = Bundle::from_bytes(bundle_of(&weights)).expect("only the content is wrong");
        let by_part = bundle.load(&Part::whole(2)).expect_err("must be refused").to_string();
        assert_eq!(by_part, bundle.verify_all(&mut |_, _, _| {}).expect_err("must be refused").to_string());
        by_part
    };
    let filled = |region: &Region, byte: u8| Region::from(vec![byte; region.len()]);
    type Case<'a> = (&'a dyn Fn(&mut ModelWeights), &'a str);
    let cases: [Case<'_>; 18] = [
        (&|w| w.layers[0].q.multipliers[3] = 0, "layers.0000.q, row 3: multiplier is 0, expected 1 to 31"),
        (
            &|w| w.layers[0].q.multipliers[3] = 255,
            "layers.0000.q, row 3: multiplier is 255, expected 1 to 31",
        ),
        (
            &|w| w.layers[1].ffn.dense_mut().unwrap().down.shifts[0] = 61,
            "layers.0001.down, row 0: shift is 61, expected 0 to 60",
        ),
        (
            &|w| w.layers[1].v.out_frac = 15,
            "layers.0001.v: fractional bits of the output is 15, expected 0 to 14",
        ),
        (
            &|w| w.layers[1].o.out_frac = 15,
            "layers.0001.o: fractional bits of the output is 15, expected 16 to 16",
        ),
        (
            &|w| w.layers[1].ffn.dense_mut().unwrap().gate.as_mut().unwrap().out_frac = -128,
            "layers.0001.gate: fractional bits of the output is -128, expected 0 to 11",
        ),
        (&|w| w.head.as_mut().unwrap().pre_shift = 31, "head: static shift is 31, expected 0 to 11"),
        (
            &|w| w.head.as_mut().unwrap().bias = vec![i32::MIN; 50],
            "head, row 0: bias is -2147483648, expected -1048576 to 1048576",
        ),
        (
            &|w| w.layers[0].q.table_ids = filled(&w.layers[0].q.table_ids, 0xff),
            "layers.0000.q, row 0: table id is 65535, expected 0 to",
        ),
        (
            &|w| w.layers[0].k_center[0] = i32::MIN,
            "layers.0000.k_center, row 0: channel is -2147483648, expected -65535 to 65535",
        ),
        (&|w| w.tables.exp2 = vec![0; 4096], "tables/exp2, row 0: entry is 0, expected 32768 to 32768"),
        (
            &|w| w.tables.exp2_sample[9] = u32::MAX,
            "tables/exp2_sample, row 9: entry is 4294967295, expected 0 to",
        ),
        (&|w| w.tables.rope[0][7] = -32_768, "tables/rope, row 7: entry is -32768, expected -16384 to 16384"),
        (
            &|w| {
                w.tables.rope[0][6] = 16_000;
                w.tables.rope[0][7] = -9_000;
            },
            "tables/rope, row 6: |cosine| + |sine| is 25000, expected 0 to 24576",
        ),
        (&|w| w.tables.activation[4096] = 1, "tables/activation, row 4096: entry is 1, expected 0 to 0"),
        (
            &|w| w.layers[0].o.bias = vec![1 << 29; w.layers[0].o.rows],
            "layers.0000.o, row 0: bias is 536870912, expected -268435456 to 268435456",
        ),
        (
            &|w| w.head.as_mut().unwrap().out_frac = 11,
            "head: fractional bits of the output is 11, expected 6 to 10",
        ),
        (&|w| w.tables.int4[2][15] = -128, "tables/int4, row 2: entry is -128, expected -127 to 127"),
    ];
    for (change, expected) in cases {
        let error = load_error(change);
        assert!(error.starts_with(expected), "got {error:?}, expected {expected:?}");
    }
    let code = load_error(&|w| {
        let head = w.head.as_mut().unwrap();
        head.codes = filled(&head.codes, 0x80);
    });
    assert_eq!(code, "head: the rows that fill up the last panel are not zero");
    let embed = load_error(&|w| w.embed.as_mut().unwrap().frac = 127);
    assert_eq!(embed, "embed: fractional bits is 127, expected -40 to 40");
}

/// A row whose sum of magnitudes could leave 32 bits is refused whatever its shift claims.
#[test]
fn accumulators_that_could_wrap_are_refused() {
    let mut model = llama(1);
    model.config.ffn_hidden = 2_048;
    let wide = |rows: usize, cols: usize| {
        lockstep_model::source::Matrix::new(
            "wide",
            rows,
            cols,
            (0..rows * cols).map(|i| (i % 7) as f32 / 1e3).collect(),
        )
        .unwrap()
    };
    for layer in &mut model.layers {
        let Ffn::Dense(ffn) = &mut layer.ffn else { panic!("dense") };
        ffn.gate.as_mut().unwrap().weight = wide(2_048, 24);
        ffn.up.weight = wide(2_048, 24);
        ffn.down.weight = wide(24, 2_048);
    }
    let (mut weights, _) = integers(&model, WeightFormat::Int8, 0);
    let down = &mut weights.layers[0].ffn.dense_mut().unwrap().down;
    down.codes = Region::from(vec![127u8; down.codes.len()]);
    let bundle = Bundle::from_bytes(bundle_of(&weights)).unwrap();
    let error = bundle.load(&Part::whole(2)).unwrap_err().to_string();
    assert!(error.starts_with("layers.0000.down, row 0: largest rescaled accumulator is "), "{error}");
}

#[test]
fn texts_that_are_none_are_refused() {
    let refuse = |name: &str, bytes: Vec<u8>| {
        let bundle = Bundle::from_bytes(forged(|entries| set_blob(entry(entries, name), bytes))).unwrap();
        let error = bundle.verify_all(&mut |_, _, _| {}).expect_err("must be refused");
        assert!(bundle.tokenizer().is_err() || bundle.chat_template().is_err());
        error.to_string()
    };
    assert_eq!(refuse("chat_template", b"ab\xff".to_vec()), "entry chat_template is not UTF-8 at byte 2");
    assert!(refuse("tokenizer", vec![0x82, 0x60]).starts_with("entry tokenizer: "));
    let bundle = Bundle::from_bytes(forged(|entries| {
        let section = lockstep_model::bundle::TokenizerSection { kind: "unheard of".into(), file: vec![1] };
        set_blob(entry(entries, "tokenizer"), cbor::encode(&section));
    }))
    .unwrap();
    assert!(matches!(bundle.tokenizer(), Err(BundleError::Tokenizer(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Garbage is an error, never a panic.
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Bundle::from_bytes(bytes.clone()).is_err());
        prop_assert!(Bundle::from_bytes(file(&bytes, &[], [0; 32])).is_err());
    }

    /// A forged manifest of random entries is an error, never a panic.
    #[test]
    fn random_manifests_are_refused(
        entries in proptest::collection::vec(("[a-z./0-9]{1,14}", any::<u64>(), any::<u64>(), any::<(u32, u32, u8)>()), 1..6)
    ) {
        let list: Vec<Placed> = entries
            .into_iter()
            .map(|(name, bytes, offset, (rows, cols, bits))| Placed {
                entry: Entry {
                    name,
                    kind: EntryKind::Linear { rows, cols, bits, pre_shift: bits, out_frac: 0, bias: true },
                    bytes,
                    root: lockstep_base::Digest::ZERO,
                },
                offset,
            })
            .collect();
        let root = model_root(&list.iter().map(|p| p.entry.clone()).collect::<Vec<_>>()).map_or([0; 32], |root| root.0);
        prop_assert!(Bundle::from_bytes(file(&cbor::encode(&list), &[0; 64], root)).is_err());
    }
}
