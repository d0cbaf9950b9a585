//! Interceptor N: the program lives in a network namespace that has only `lo`. Every address is local there (`AnyIP`);
//! nftables brings permitted connections to the relay's inner listeners (TPROXY) and refuses all else at once.
//!
//! The topology enforces, not code that must catch every call: nothing but this process's sockets leads out.
//! Nothing is pinned in the file system: the namespace goes when its last process, socket and descriptor go.

mod accept;
mod dial;
mod error;
mod nflog;
mod process;
mod rules;
mod selftest;
mod setup;
mod watch;

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::Shutdown;

pub use accept::OnOutbound;
pub use dial::Dialer;
pub use error::NamespaceError;

use crate::event::{Caller, DenialLog, Inner};
use crate::names;
use crate::names::responder::{OnUnknown, Responder};
use crate::policy::Policy;

/// A raised namespace. Dropping it is lowering it.
pub struct Namespace {
    netns: File,
    policy: Policy,
    listeners: Option<[TcpListener; 2]>,
    dialer: Arc<Dialer>,
    watch: Arc<watch::Watch>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the namespace, its rules and addresses, tests them from inside, and starts the DNS responder, the dialer
    /// and the reader of refusals. Permitted connections wait until [`Namespace::start`].
    ///
    /// # Errors
    /// [`NamespaceError`] names what is missing or what the self-test found; nothing is left then.
    pub fn raise(policy: &Policy, denials: Arc<dyn DenialLog>) -> Result<Self, NamespaceError> {
        let built = {
            let policy = policy.clone();
            thread("securetf-netns", move || setup::build(&policy))?.join()
        };
        let parts = built.map_err(|_| {
            NamespaceError::new(
                "the thread that builds the network namespace ended",
                "report this",
            )
        })??;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| NamespaceError::refused("no eventfd", &errno.into()))?;
        let dialer = Dialer::start(&parts.namespace, &policy.me.addresses)?;
        let inode = parts.namespace.metadata();
        let inode = inode.map_err(|error| NamespaceError::refused("no namespace", &error))?;
        let mut raised = Self {
            watch: Arc::new(watch::Watch::new(policy, inode.ino(), denials)),
            netns: parts.namespace,
            policy: policy.clone(),
            listeners: Some(parts.listeners),
            dialer: Arc::new(dialer),
            stop: Arc::new(stop),
            threads: Vec::new(),
        };
        raised.watch(parts.responder, parts.refusals)?;
        Ok(raised)
    }

    fn watch(
        &mut self,
        responder: TcpListener,
        refusals: nflog::RefusalSocket,
    ) -> Result<(), NamespaceError> {
        let (watch, stop) = (self.watch.clone(), self.stop.clone());
        let on_unknown: OnUnknown = Arc::new(move |name| watch.unknown_name(name));
        let answers = Responder::new(names::resolvable(&self.policy));
        self.threads.push(thread("securetf-dns", move || {
            answers.serve(&responder, &stop, &on_unknown);
            close(&[responder]);
        })?);
        let (watch, stop) = (self.watch.clone(), self.stop.clone());
        self.threads.push(thread("securetf-refusals", move || {
            watch.read(&refusals, &stop);
        })?);
        Ok(())
    }

    /// From now on each permitted connection of the program goes to `on_outbound`. To be called once.
    ///
    /// # Errors
    /// [`NamespaceError`] when it was called before or when there is no thread.
    pub fn start(&mut self, on_outbound: OnOutbound) -> Result<(), NamespaceError> {
        let listeners = self.listeners.take().ok_or_else(|| {
            NamespaceError::new("the namespace's listeners are in use", "call `start` once")
        })?;
        let (permitted, stop) = (rules::permitted(&self.policy), self.stop.clone());
        let watch = self.watch.clone();
        let caller = Caller::new(move || watch.processes());
        self.threads.push(thread("securetf-accept", move || {
            accept::serve(&listeners, &permitted, &caller, &stop, &on_outbound);
            close(&listeners);
        })?);
        Ok(())
    }

    /// Reaches the program for inbound connections. Keeps two threads and the namespace until it is dropped.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn Inner> {
        self.dialer.clone()
    }

    /// For `confine::Spawn`.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Closes the listeners and ends our threads. A program that still runs gets RST for each new connection.
    pub fn lower(self) {
        drop(self);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(listeners) = self.listeners.take() {
            close(&listeners);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Ends listening at once, also while a child of another thread, between fork and exec, has a copy of the descriptor.
fn close(listeners: &[TcpListener]) {
    for listener in listeners {
        let _ = rustix::net::shutdown(listener, Shutdown::Both);
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, NamespaceError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder
        .spawn(work)
        .map_err(|error| NamespaceError::refused("no thread for the network namespace", &error))
}
