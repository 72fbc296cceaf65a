//! The handshake of a private swarm: Noise, then the proofs of both sides, then nothing for whoever has none.

use super::proof::PROOF_BYTES_MAX;
use super::{Membership, ProofError};
use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::{PeerId, noise};
use std::sync::Arc;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UpgradeError {
    /// The handshake before.
    #[error(transparent)]
    Noise(#[from] noise::Error),
    /// The connection.
    #[error("the connection ended in the exchange of proofs: {0}")]
    Io(#[from] std::io::Error),
    /// The peer is no member.
    #[error("the peer is no member: {0}")]
    Proof(#[from] ProofError),
}

/// Noise, then the proofs.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) noise: noise::Config,
    pub(crate) membership: Arc<Membership>,
}

impl UpgradeInfo for Members {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/lockstep/members/1")
    }
}

type Secured<C> = (PeerId, noise::Output<C>);

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Members {
    type Output = Secured<C>;
    type Error = UpgradeError;
    type Future = BoxFuture<'static, Result<Secured<C>, UpgradeError>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let (peer, mut stream) = self.noise.upgrade_inbound(socket, "/noise").await?;
            // Whoever knocks shows first.
            let shown = receive(&mut stream).await?;
            self.membership.admit(&peer, &shown)?;
            send(&mut stream, self.membership.proof()).await?;
            Ok((peer, stream))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Members {
    type Output = Secured<C>;
    type Error = UpgradeError;
    type Future = BoxFuture<'static, Result<Secured<C>, UpgradeError>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let (peer, mut stream) = self.noise.upgrade_outbound(socket, "/noise").await?;
            send(&mut stream, self.membership.proof()).await?;
            let shown = receive(&mut stream).await?;
            self.membership.admit(&peer, &shown)?;
            Ok((peer, stream))
        }
        .boxed()
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), proof: &[u8]) -> Result<(), UpgradeError> {
    stream.write_all(&(proof.len() as u16).to_be_bytes()).await?;
    stream.write_all(proof).await?;
    Ok(stream.flush().await?)
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, UpgradeError> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let got = usize::from(u16::from_be_bytes(length));
    if got > PROOF_BYTES_MAX {
        return Err(ProofError::Length { got }.into());
    }
    let mut proof = vec![0; got];
    stream.read_exact(&mut proof).await?;
    Ok(proof)
}
