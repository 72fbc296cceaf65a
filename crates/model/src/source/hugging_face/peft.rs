//! LoRA adapters as PyPI `peft` writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! ```text
//! base_model.model.MODULE.lora_A.weight (r, inputs)    base_model.model.MODULE.lora_B.weight (outputs, r)
//! y += scale B (A x),   scale = lora_alpha / r,  or lora_alpha / sqrt(r) with use_rslora
//! ```
//! MODULE is the linear's name in the base, so the base's family says what it means and how its rows are ordered. What
//! changes anything but linears of attention and of dense feed-forward blocks is refused by name, and so are ways of
//! initialising that leave another base behind.

use std::path::Path;

use lockstep_base::adapter::Target;
use serde_json::Value;

use super::super::SourceError;
use super::super::adapter::{FloatAdapter, FloatLayerAdapter, FloatLowRank};
use super::super::config::{FloatConfig, in_range};
use super::super::config_json::ConfigJson;
use super::super::limits::MAX_ADAPTER_RANK;
use super::super::matrix::Matrix;
use super::super::pairs::PairOrder;
use super::super::tensor_store::TensorStore;
use super::describe::Described;
use super::family::{Names, Qkv, Up};
use super::read_config;

/// Fields that must be absent, null, false, empty or what stands here.
const REFUSED: [(&str, &str); 13] = [
    ("use_dora", "false"),
    ("use_qalora", "false"),
    ("lora_bias", "false"),
    ("bias", "none"),
    ("modules_to_save", "null"),
    ("trainable_token_indices", "null"),
    ("target_parameters", "null"),
    ("layer_replication", "null"),
    ("rank_pattern", "{} (one rank for all)"),
    ("alpha_pattern", "{} (one alpha for all)"),
    ("corda_config", "null"),
    ("megatron_config", "null"),
    ("arrow_config", "null"),
];

/// Ways to initialise after which the base is what it was.
const INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Reads the adapter in `folder` for the model whose `config.json` lies in `base`.
pub(crate) fn open(folder: &Path, base: &Path) -> Result<FloatAdapter, SourceError> {
    let (family, json) = read_config(base)?;
    let Described { config, rotated_gain } = (family.describe)(&json)?;
    let config = config.checked()?;
    let adapter = ConfigJson::read(&folder.join("adapter_config.json"))?;
    let (rank, scale) = read_adapter_config(&adapter)?;
    let store = TensorStore::open_file(&folder.join("adapter_model.safetensors"))?;
    let reader = Reader { store: &store, names: &family.names, config: &config, rotated_gain, rank, scale };
    let layers = (0..config.n_layers).map(|index| reader.layer(index)).collect::<Result<_, _>>()?;
    if let Some(name) = store.unread().into_iter().next() {
        return Err(SourceError::AdapterTensor { name });
    }
    FloatAdapter { rank, layers }.checked(&config)
}

/// Rank and scale.
fn read_adapter_config(json: &ConfigJson) -> Result<(usize, f64), SourceError> {
    json.require_one_of("peft_type", &["LORA"], "LORA")?;
    for (field, expected) in REFUSED {
        let nothing = match json.get(field) {
            None => true,
            Some(Value::Bool(on)) => !on,
            Some(Value::String(text)) => text == expected,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Number(_) | Value::Null) => false,
        };
        if !nothing {
            let got = json.get(field).map_or_else(String::new, ToString::to_string);
            return Err(SourceError::Unsupported { field, got, expected });
        }
    }
    match json.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(text)) if INITIALISATIONS.contains(&text.as_str()) => {}
        Some(other) => {
            return Err(SourceError::Unsupported {
                field: "init_lora_weights",
                got: other.to_string(),
                expected: "true, false, gaussian, eva or orthogonal (others change the base)",
            });
        }
    }
    let rank = json.size("r")?;
    in_range("rank of the adapter", rank, MAX_ADAPTER_RANK)?;
    let divisor = if json.flag_or("use_rslora", false)? { (rank as f64).sqrt() } else { rank as f64 };
    Ok((rank, json.float("lora_alpha")? / divisor))
}

struct Reader<'a> {
    store: &'a TensorStore,
    names: &'a Names,
    config: &'a FloatConfig,
    rotated_gain: f64,
    rank: usize,
    scale: f64,
}

impl Reader<'_> {
    fn layer(&self, index: usize) -> Result<FloatLayerAdapter, SourceError> {
        let c = self.config;
        let (d, q, kv, hidden) = (c.d_model, c.q_dim(), c.kv_dim(), c.ffn_hidden);
        let mut layer = FloatLayerAdapter::default();
        let mut add = |target: Target, part: Option<FloatLowRank>| {
            if let Some(part) = part {
                let turns = matches!(target, Target::Q | Target::K);
                layer.set(target, if turns { self.rotated(index, part) } else { part });
            }
        };
        match self.names.qkv {
            Qkv::Separate([q_name, k_name, v_name]) => {
                add(Target::Q, self.part(index, q_name, q, d)?);
                add(Target::K, self.part(index, k_name, kv, d)?);
                add(Target::V, self.part(index, v_name, kv, d)?);
            }
            Qkv::Stacked(name) => {
                let all = self.part(index, name, q + 2 * kv, d)?;
                add(Target::Q, all.as_ref().map(|all| select(all, q, |row| row)));
                add(Target::K, all.as_ref().map(|all| select(all, kv, |row| q + row)));
                add(Target::V, all.as_ref().map(|all| select(all, kv, |row| q + kv + row)));
            }
            Qkv::PerHead(name) => {
                let (all, dim) = (self.part(index, name, 3 * q, d)?, c.head_dim);
                for (part, target) in [Target::Q, Target::K, Target::V].into_iter().enumerate() {
                    let order = |row: usize| (row / dim * 3 + part) * dim + row % dim;
                    add(target, all.as_ref().map(|all| select(all, q, order)));
                }
            }
        }
        add(Target::O, self.part(index, self.names.o, d, q)?);
        if c.is_sparse(index) {
            return Ok(layer); // adapters of experts and routers stay unread, hence are refused
        }
        match self.names.up {
            Up::Plain(up) => add(Target::Up, self.part(index, up, hidden, d)?),
            Up::Gated([gate, up]) => {
                add(Target::Gate, self.part(index, gate, hidden, d)?);
                add(Target::Up, self.part(index, up, hidden, d)?);
            }
            Up::Stacked(both) => {
                let both = self.part(index, both, 2 * hidden, d)?;
                add(Target::Gate, both.as_ref().map(|both| select(both, hidden, |row| row)));
                add(Target::Up, both.as_ref().map(|both| select(both, hidden, |row| hidden + row)));
            }
        }
        add(Target::Down, self.part(index, self.names.down, d, hidden)?);
        Ok(layer)
    }

    /// What stands beside a linear, if anything does.
    fn part(
        &self,
        layer: usize,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<FloatLowRank>, SourceError> {
        for prefix in self.names.prefixes {
            let module = format!("base_model.model.{prefix}{}{layer}.{name}", self.names.layers);
            let [a, b] = ["lora_A", "lora_B"].map(|half| format!("{module}.{half}.weight"));
            if self.store.contains(&a) || self.store.contains(&b) {
                let (a, b) =
                    (self.store.matrix(&a, self.rank, cols)?, self.store.matrix(&b, rows, self.rank)?);
                return Ok(Some(FloatLowRank { a, b, scale: self.scale }));
            }
        }
        Ok(None)
    }

    /// B of query or key heads, in the order and with the gain of the base's rows.
    fn rotated(&self, layer: usize, part: FloatLowRank) -> FloatLowRank {
        let Some(rope) = self.config.rope_of(layer) else { return part };
        let pairs = PairOrder { head_dim: self.config.head_dim, dim: rope.dim };
        let mut b = part.b.with_row_order(|row| pairs.old_row(row));
        pairs.scale_rotated_rows(&mut b, self.rotated_gain);
        FloatLowRank { b, ..part }
    }
}

fn select(part: &FloatLowRank, rows: usize, order: impl Fn(usize) -> usize) -> FloatLowRank {
    let b: Matrix = part.b.select_rows(rows, order);
    FloatLowRank { a: part.a.clone(), b, scale: part.scale }
}
