//! Parts of one task that wait for different things: a part is polled when what it waits for has happened, and not
//! whenever any other part goes on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future that keeps a waker of its own.
pub struct Part<'a, F> {
    future: Pin<&'a mut F>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Notes for which part the task is woken. Others' threads may ring it.
struct Bell {
    rang: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task can run: its poll must see it.
        self.rang.store(true, Ordering::Release);
        self.task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wake_by_ref();
    }
}

impl<'a, F: Future> Part<'a, F> {
    /// A part that is due, as nothing has polled it yet.
    pub fn new(future: Pin<&'a mut F>) -> Self {
        let bell = Arc::new(Bell {
            rang: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        let waker = Waker::from(Arc::clone(&bell));
        Self {
            future,
            bell,
            waker,
        }
    }
}

impl<F: Future> Future for Part<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            // Whose task it is must stand before the bell is read: who rings in between wakes the right one.
            let mut task = self
                .bell
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            task.clone_from(context.waker());
        }
        if !self.bell.rang.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let this = &mut *self;
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use tokio::sync::Notify;

    use super::*;

    async fn count(polled: &Cell<u32>, wake: &Notify) {
        let mut waiting = pin!(wake.notified());
        std::future::poll_fn(|context| {
            polled.set(polled.get() + 1);
            waiting.as_mut().poll(context)
        })
        .await;
    }

    #[test]
    fn a_part_is_polled_once_for_what_it_waits_for_and_not_for_others() {
        let (first, second) = (Cell::new(0), Cell::new(0));
        let (wake_first, wake_second) = (Notify::new(), Notify::new());
        let (mut one, mut two) = (
            pin!(count(&first, &wake_first)),
            pin!(count(&second, &wake_second)),
        );
        let (mut one, mut two) = (Part::new(one.as_mut()), Part::new(two.as_mut()));
        let mut context = Context::from_waker(Waker::noop());
        let mut both = || {
            (
                Pin::new(&mut one).poll(&mut context).is_ready(),
                Pin::new(&mut two).poll(&mut context).is_ready(),
            )
        };
        assert_eq!(both(), (false, false));
        wake_second.notify_one();
        assert_eq!(both(), (false, true));
        assert_eq!((first.get(), second.get()), (1, 2));
    }

    #[test]
    fn a_part_wakes_the_task_that_polled_it_last() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let flags = [(); 2].map(|()| Arc::new(Flag(AtomicBool::new(false))));
        let (polled, wake) = (Cell::new(0), Notify::new());
        let mut future = pin!(count(&polled, &wake));
        let mut part = Part::new(future.as_mut());
        for flag in &flags {
            let waker = Waker::from(Arc::clone(flag));
            let pending = Pin::new(&mut part).poll(&mut Context::from_waker(&waker));
            assert!(pending.is_pending());
        }
        wake.notify_one();
        let woken = flags.map(|flag| flag.0.load(Ordering::Relaxed));
        assert_eq!(woken, [false, true]);
    }
}
