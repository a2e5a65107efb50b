//! What a daemon says when it is asked.

use rudel_api::control::{Failure, Request as ControlRequest, Response};
use tokio::sync::{mpsc, oneshot};

use super::Daemon;
use crate::history::History;
use crate::nat;
use crate::sharing::Sharing;
use crate::snapshot::{self, Context};
use crate::web::Look;

impl Daemon {
    fn context<'a>(&'a self, history: &'a History) -> Context<'a> {
        Context {
            config: &self.config,
            node: self.node.as_str(),
            own_addresses: &self.own_addresses,
            modes: &self.modes,
            seed: self.seed,
            health: self.checks.snapshot(),
            unfit: self.fitness.reason(),
            reception: &self.reception,
            redundancy: self.redundancy.alarms(),
            nat: self.config.nat.as_ref().map(|nat| rudel_api::snapshot::Nat {
                table: self.table.as_ref().map(|table| table.table().to_owned()).unwrap_or_default(),
                addresses: nat.addresses.iter().map(ToString::to_string).collect(),
                refused: self.table.as_ref().map_or(0, nat::Watch::refused),
            }),
            sync: self.sharing.as_ref().map(Sharing::report),
            aside: self.aside.report(),
            restarts: self.household.restarts,
            hook: self.hooks.snapshot(),
            history,
            reload: self.reloading.last.as_ref(),
        }
    }

    /// What the web server tells; none if it cannot be known.
    pub(super) async fn look(&self) -> Option<Look> {
        let report = self.requests.report().await.ok()?;
        let snapshot = snapshot::snapshot(&self.context(&self.history.borrow()), &report);
        Some(Look { snapshot, counts: report.counts, interfaces: report.interfaces })
    }

    pub(super) async fn answer(&self, request: ControlRequest) -> Response {
        if let ControlRequest::Events { after, .. } = request {
            return Response::Events(
                self.history.borrow().events_after(after.unwrap_or(0)).cloned().collect(),
            );
        }
        let report = match self.requests.report().await {
            Ok(report) => report,
            Err(error) => return Response::Error(Failure::new(error.to_string(), "try again in a moment")),
        };
        let history = self.history.borrow();
        let context = self.context(&history);
        match request {
            ControlRequest::Status => Response::Status(Box::new(snapshot::snapshot(&context, &report))),
            ControlRequest::Why { flow } => match snapshot::why(&context, &report, flow) {
                Ok(answer) => Response::Why(Box::new(answer)),
                Err(failure) => Response::Error(failure),
            },
            ControlRequest::Sight { ask } => {
                let mut sight = self.sight.borrow_mut();
                if ask {
                    sight.ask();
                }
                Response::Sight(Box::new(sight.report(&self.reception, &report.status)))
            }
            ControlRequest::Events { .. } => unreachable!("answered from the history alone, above"),
            ControlRequest::Restart
            | ControlRequest::Reload
            | ControlRequest::Drain { .. }
            | ControlRequest::Undrain { .. }
            | ControlRequest::Weight { .. } => {
                unreachable!("orders are carried out beside the daemon's other work")
            }
        }
    }
}

pub(super) async fn ask_daemon(
    ask: &mpsc::Sender<(ControlRequest, oneshot::Sender<Response>)>,
    request: ControlRequest,
) -> Response {
    let stopping = || Response::Error(Failure::new("the daemon is stopping", "start it again and ask again"));
    let (sender, receiver) = oneshot::channel();
    if ask.send((request, sender)).await.is_err() {
        return stopping();
    }
    receiver.await.unwrap_or_else(|_| stopping())
}
