//! Models in (llama2.c, safetensors), tokenizers, quantiser; the committed bundle out.
