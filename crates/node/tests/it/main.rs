//! Integration tests: the API over real sockets, the built binary, a foreign client.
// Test bodies are built where they are used.
#![allow(clippy::needless_pass_by_value)]

mod adapters;
mod api_answers;
mod api_failures;
mod api_proofs;
mod api_requests;
mod api_streams;
mod cli;
mod cli_adapter;
mod cli_bench;
mod cli_encoder;
mod cli_eval_suite;
mod cli_import;
mod cli_import_hub;
mod cli_plan;
mod cli_prove;
mod http;
mod laws;
mod local;
mod mesh;
mod mesh_cli;
mod mesh_hostile;
mod mesh_proofs;
mod mesh_recovery;
mod net_cli;
mod openai_client;
mod seed_table;
mod support;
mod swarm;
mod swarm_private;
mod text;
