//! arithmetic.md: the numbers of a configuration are checked before anything is computed with them.

use lockstep_base::config::{ConfigError, FeedForward, ModelConfig, Positions};

fn config() -> ModelConfig {
    ModelConfig {
        opset: "lockstep-1".into(),
        name: "test".into(),
        n_layers: 2,
        d_model: 288,
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 48,
        d_ffn: 768,
        vocab: 512,
        context: 1024,
        residual_frac: 12,
        norm_eps: 48,
        positions: Positions::Rope,
        feed_forward: FeedForward::Gated,
        bos: Some(1),
        eos: vec![2],
        rope_dim: 48,
        ..ModelConfig::decoder()
    }
}

#[test]
fn a_configuration_within_its_limits_is_accepted() {
    assert_eq!(config().validate(), Ok(()));
}

#[test]
fn another_opset_is_refused_by_name() {
    let other = ModelConfig { opset: "lockstep-0".into(), ..config() };
    assert_eq!(other.validate(), Err(ConfigError::Opset { got: "lockstep-0".into() }));
}

#[test]
fn every_number_has_its_limits() {
    type Change = fn(&mut ModelConfig, u32);
    let cases: [(&str, Change, &[u32]); 11] = [
        ("n_layers", |c, v| c.n_layers = v, &[0, 401, u32::MAX]),
        ("d_model", |c, v| c.d_model = v, &[0, 16_385, u32::MAX]),
        ("head_dim", |c, v| c.head_dim = v, &[0, 1, 47, 258, u32::MAX]),
        ("n_heads", |c, v| c.n_heads = v, &[0, 1025, u32::MAX]),
        ("n_kv_heads", |c, v| c.n_kv_heads = v, &[0, 4, 7, u32::MAX]),
        // Near the end of 32 bits, padding to a multiple of 64 would wrap to zero columns.
        ("d_ffn", |c, v| c.d_ffn = v, &[0, 65_537, u32::MAX - 63, u32::MAX]),
        ("vocab", |c, v| c.vocab = v, &[0, (1 << 20) + 1, u32::MAX]),
        ("context", |c, v| c.context = v, &[0, 131_073, u32::MAX]),
        ("residual_frac", |c, v| c.residual_frac = v as u8, &[0, 3, 25, 255]),
        ("special token", |c, v| c.bos = Some(v), &[512, u32::MAX]),
        ("special token", |c, v| c.eos = vec![2, v], &[512, u32::MAX]),
    ];
    for (name, change, values) in cases {
        for &value in values {
            let mut other = config();
            change(&mut other, value);
            match other.validate() {
                Err(ConfigError::Range { field, got, .. }) => {
                    assert_eq!((field, got), (name, u64::from(value)));
                }
                answer => panic!("{name} = {value}: {answer:?}"),
            }
        }
    }
}

#[test]
fn heads_together_are_at_most_as_wide_as_a_matrix() {
    let wide = ModelConfig { n_heads: 1024, n_kv_heads: 1, head_dim: 128, ..config() };
    let error = wide.validate().expect_err("131072 columns");
    assert!(matches!(error, ConfigError::Range { field: "q_dim", got: 131_072, .. }), "{error}");
}

/// arithmetic.md, section 7: the largest power of two up to 128 that divides the padded width.
#[test]
fn the_hadamard_block_divides_the_padded_width() {
    for (d_ffn, padded, block) in [(1, 64, 64), (64, 64, 64), (65, 128, 128), (192, 192, 64), (768, 768, 128)]
    {
        let config = ModelConfig { d_ffn, ..config() };
        assert_eq!((config.down_cols(), config.hadamard_block()), (padded, block), "{d_ffn}");
    }
}
