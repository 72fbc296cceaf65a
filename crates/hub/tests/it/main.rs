//! Behaviour of the download against a server that speaks the hub's protocol, and against one that lies.

mod fetch;
mod hostile;
mod names;
mod resume;
mod server;
