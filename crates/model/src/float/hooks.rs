//! Where calibration looks into the forward pass.

/// An input of linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Input of q, k and v: `(d_model,)`.
    AttnIn,
    /// Attention output, heads side by side, input of o: `(n_heads * head_dim,)`.
    OIn,
    /// Input of gate and up, and of the router: `(d_model,)`.
    FfnIn,
    /// Activated vector, input of down: `(ffn_hidden,)`.
    DownIn,
    /// The same inside one expert, for tokens that it sees.
    ExpertDownIn(usize),
    /// Normed input of the head: `(d_model,)`; its layer is `n_layers`.
    HeadIn,
}

/// Called with (layer, site, vector).
pub type InputHook<'a> = &'a mut dyn FnMut(usize, Site, &[f32]);
/// Called with (layer, key head, key after RoPE `(head_dim,)`).
pub type KeyHook<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

/// Closures that see vectors as they pass. `Hooks::default()` sees nothing.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Every input of a linear, before any simulated quantisation.
    pub input: Option<InputHook<'a>>,
    /// Every key, after RoPE.
    pub key: Option<KeyHook<'a>>,
}

impl Hooks<'_> {
    pub(super) fn see_input(&mut self, layer: usize, site: Site, x: &[f32]) {
        if let Some(hook) = &mut self.input {
            hook(layer, site, x);
        }
    }

    pub(super) fn see_key(&mut self, layer: usize, kv_head: usize, key: &[f32]) {
        if let Some(hook) = &mut self.key {
            hook(layer, kv_head, key);
        }
    }
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("input", &self.input.is_some())
            .field("key", &self.key.is_some())
            .finish()
    }
}
