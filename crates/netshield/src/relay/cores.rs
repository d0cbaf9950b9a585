//! One thread per core, each with its own event loop; a connection stays on one of them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use super::state::State;
use super::{dial, serve};
use crate::event::Outbound;

/// Connections that wait for their core.
const WAITING: usize = 4096;
/// More cores than this do not help one program.
const MOST_CORES: usize = 8;
/// A core's thread needs little stack: its tasks live on the heap.
const STACK_BYTES: usize = 512 * 1024;

/// A connection for a core.
pub enum Work {
    /// Of our program.
    Outbound(Outbound),
    /// Of a peer.
    Inbound(std::net::TcpStream, SocketAddr),
}

/// The threads and their queues.
pub struct Cores {
    queues: Arc<[mpsc::Sender<Work>]>,
    next: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Cores {
    /// Starts the threads; the first one also accepts.
    ///
    /// # Errors
    /// When threads or event loops cannot be made.
    pub fn start(state: &Arc<State>, listener: StdTcpListener) -> io::Result<Self> {
        let count = thread::available_parallelism()
            .map_or(1, Into::into)
            .min(MOST_CORES);
        let (stop, stopped) = watch::channel(false);
        let next = Arc::new(AtomicUsize::new(0));
        let mut receivers = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..count {
            let (sender, receiver) = mpsc::channel(WAITING);
            queues.push(sender);
            receivers.push(receiver);
        }
        let queues: Arc<[_]> = queues.into();
        let mut cores = Self {
            queues: Arc::clone(&queues),
            next: Arc::clone(&next),
            stop,
            threads: Vec::new(),
        };
        let mut listener = Some(listener);
        let (began, begins) = std::sync::mpsc::channel();
        for (number, work) in receivers.into_iter().enumerate() {
            let core = Core {
                state: Arc::clone(state),
                work,
                stopped: stopped.clone(),
                accepting: listener
                    .take()
                    .map(|listener| (listener, Arc::clone(&queues), Arc::clone(&next))),
            };
            let builder = thread::Builder::new()
                .name(format!("relay-{number}"))
                .stack_size(STACK_BYTES);
            let began = began.clone();
            let run = move || match event_loop() {
                Ok(runtime) => {
                    let _ = began.send(Ok(()));
                    core.run(&runtime);
                }
                Err(error) => {
                    let _ = began.send(Err(error));
                }
            };
            cores.threads.push(builder.spawn(run)?);
        }
        drop(began);
        for _ in 0..count {
            // A thread that ended without a word has panicked.
            let said = begins.recv();
            said.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        }
        Ok(cores)
    }

    /// Gives a connection to one of the cores in turn; when its queue is full the connection is closed.
    pub fn give(&self, work: Work) -> bool {
        give(&self.queues, &self.next, work)
    }

    /// Ends every connection and waits for the threads.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A panic of a core has been printed; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

fn give(queues: &[mpsc::Sender<Work>], next: &AtomicUsize, work: Work) -> bool {
    let number = next.fetch_add(1, Ordering::Relaxed) % queues.len().max(1);
    queues
        .get(number)
        .is_some_and(|queue| queue.try_send(work).is_ok())
}

type Accepting = (StdTcpListener, Arc<[mpsc::Sender<Work>]>, Arc<AtomicUsize>);

/// An event loop stays on the thread that makes it, so that its tasks need no queue that other threads could use.
fn event_loop() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build_local(LocalOptions::default())
}

struct Core {
    state: Arc<State>,
    work: mpsc::Receiver<Work>,
    stopped: watch::Receiver<bool>,
    accepting: Option<Accepting>,
}

impl Core {
    fn run(mut self, runtime: &LocalRuntime) {
        runtime.block_on(async move {
            if let Some((listener, queues, next)) = self.accepting.take() {
                spawn_local(accept(listener, queues, next));
            }
            loop {
                tokio::select! {
                    biased;
                    _ = self.stopped.wait_for(|stopped| *stopped) => return,
                    Some(work) = self.work.recv() => {
                        let state = Arc::clone(&self.state);
                        match work {
                            Work::Outbound(Outbound { stream, destination, source, caller }) => {
                                if let Ok(program) = adopt(stream) {
                                    spawn_local(dial::outbound(state, program, destination, source, caller));
                                }
                            }
                            Work::Inbound(stream, from) => {
                                if let Ok(tcp) = adopt(stream) {
                                    spawn_local(serve::inbound(state, tcp, from));
                                }
                            }
                        }
                    }
                }
            }
        });
    }
}

fn adopt(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

async fn accept(
    listener: StdTcpListener,
    queues: Arc<[mpsc::Sender<Work>]>,
    next: Arc<AtomicUsize>,
) {
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener));
    let Ok(listener) = listener else { return };
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                if let Ok(tcp) = tcp.into_std() {
                    give(&queues, &next, Work::Inbound(tcp, from));
                }
            }
            // Out of descriptors, or the peer was faster: go on after a moment.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}
