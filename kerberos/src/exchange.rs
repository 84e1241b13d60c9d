//! The tokens that both sides exchange until they know each other (RFC 4178 around RFC 4121).

use crate::{Account, KerberosError, Principal, Session, error::words, principal::of_name, session::Context};
use libgssapi::{
    context::{ClientCtx, CtxFlags, SecurityContext, ServerCtx},
    name::Name,
    oid::{GSS_MECH_KRB5, GSS_MECH_SPNEGO, GSS_NT_KRB5_PRINCIPAL},
};
use std::time::Duration;

/// The calling side.
#[derive(Debug)]
pub struct Initiator {
    context: ClientCtx,
    target: String,
}

/// The side that is called.
#[derive(Debug)]
pub struct Acceptor {
    context: ServerCtx,
    account: Account,
}

fn other(error: &libgssapi::error::Error) -> KerberosError {
    KerberosError::Other { words: words(error) }
}

impl Initiator {
    /// Gets a ticket for `target` (`relevo/b.example`, with or without `@REALM`), and the first token for it. Blocks
    /// while the KDC is asked.
    pub fn begin(account: &Account, target: &str) -> Result<(Self, Vec<u8>), KerberosError> {
        let credential = account.to_initiate()?;
        // As a principal, not as service@host: what DNS says about the host's name must not choose whom we believe.
        let name =
            Name::new(target.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL)).map_err(|error| other(&error))?;
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG
            | CtxFlags::GSS_C_REPLAY_FLAG
            | CtxFlags::GSS_C_SEQUENCE_FLAG
            | CtxFlags::GSS_C_CONF_FLAG
            | CtxFlags::GSS_C_INTEG_FLAG;
        let context = ClientCtx::new(Some(credential), name, flags, Some(GSS_MECH_SPNEGO));
        let mut this = Self { context, target: target.to_owned() };
        let token = this.context.step(None, None);
        let token = token.map_err(|error| KerberosError::of_peers_ticket(target, &error))?;
        let token = token.ok_or(KerberosError::Lacking { lacking: "an exchange of tokens" })?;
        Ok((this, token.to_vec()))
    }

    /// Takes the other side's token; answers what it is to be told next, if anything.
    pub fn step(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, KerberosError> {
        let answer = self.context.step(Some(token), None);
        let answer = answer.map_err(|error| KerberosError::of_peers_ticket(&self.target, &error))?;
        Ok(answer.map(|token| token.to_vec()))
    }

    /// The other side is who it should be, and what is said from now on is sealed, or this fails.
    pub fn finish(self) -> Result<Session, KerberosError> {
        demand_all(&self.context)?;
        let peer = of_name(self.context.target_name())?;
        let good_for = self.context.lifetime().map_err(|error| other(&error))?;
        Ok(Session { context: Context::Initiator(self.context), peer, good_for })
    }
}

impl Acceptor {
    /// Reads the keytab.
    pub fn new(account: &Account) -> Result<Self, KerberosError> {
        let credential = account.to_accept()?;
        Ok(Self { context: ServerCtx::new(Some(credential)), account: account.clone() })
    }

    /// Takes the other side's token; answers what it is to be told next, if anything. Blocks shortly: keys and tokens
    /// that were seen are in files.
    pub fn step(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, KerberosError> {
        let answer = self.context.step(token, None);
        let answer = answer.map_err(|error| KerberosError::of_callers_ticket(&self.account, &error))?;
        Ok(answer.map(|token| token.to_vec()))
    }

    /// Whether the other side is known; until then it owes another token.
    pub fn is_complete(&self) -> bool {
        self.context.is_complete()
    }

    /// Who the other side is, and how long its ticket is still good for.
    pub fn caller(&self) -> Result<(Principal, Duration), KerberosError> {
        demand(self.context.is_complete(), "an exchange of tokens")?;
        demand_kerberos(&self.context)?;
        let good_for = self.context.lifetime().map_err(|error| other(&error))?;
        Ok((of_name(self.context.source_name())?, good_for))
    }

    /// What is said from now on is sealed, or this fails.
    pub fn finish(self) -> Result<Session, KerberosError> {
        demand_all(&self.context)?;
        let peer = of_name(self.context.source_name())?;
        let good_for = self.context.lifetime().map_err(|error| other(&error))?;
        Ok(Session { context: Context::Acceptor(self.context), peer, good_for })
    }
}

/// A property that was asked for is only a wish: what was granted is looked at (RFC 2743, 1.2).
fn demand_all(context: &impl SecurityContext) -> Result<(), KerberosError> {
    demand(context.is_complete(), "an exchange of tokens")?;
    demand_kerberos(context)?;
    let flags = context.flags().map_err(|error| other(&error))?;
    demand(flags.contains(CtxFlags::GSS_C_MUTUAL_FLAG), "prove who it is")?;
    demand(flags.contains(CtxFlags::GSS_C_CONF_FLAG), "encryption")?;
    demand(flags.contains(CtxFlags::GSS_C_INTEG_FLAG), "protection of integrity")?;
    demand(flags.contains(CtxFlags::GSS_C_REPLAY_FLAG), "detection of replays")?;
    demand(flags.contains(CtxFlags::GSS_C_SEQUENCE_FLAG), "detection of lost messages")
}

/// SPNEGO could agree on another mechanism that is installed.
fn demand_kerberos(context: &impl SecurityContext) -> Result<(), KerberosError> {
    let mechanism = context.mechanism().map_err(|error| other(&error))?;
    demand(mechanism == GSS_MECH_KRB5, "Kerberos")
}

fn demand(met: bool, lacking: &'static str) -> Result<(), KerberosError> {
    if met { Ok(()) } else { Err(KerberosError::Lacking { lacking }) }
}
