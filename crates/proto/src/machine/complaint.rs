//! What a node says is wrong with it, for people at other nodes. No rule looks at it.
//!
//! It has a message of its own: there is no room for it in the pulse of a full cluster, and it seldom changes. It goes
//! out with a regular pulse when it is new, and again with every eighth, for those who missed it.

use super::Machine;
use crate::seal::{Rejection, Sender};
use crate::time::Time;
use crate::wire::{Complaint, Message};

/// It is repeated with each regular pulse of this number.
const REPEATED_EVERY: u32 = 8;

impl Machine {
    /// The daemon says what is wrong; empty if nothing is.
    pub(super) fn set_complaint(&mut self, text: &str) {
        let complaint = Complaint::new(text);
        if self.complaint != complaint {
            self.complaint = complaint;
            self.complaint_in = 0;
        }
    }

    /// A regular pulse has been made.
    pub(super) fn complain(&mut self) {
        let Some(complaint) = self.complaint.clone() else {
            return;
        };
        if self.complaint_in == 0 {
            self.complaint_in = REPEATED_EVERY;
            self.send(Message::Complaint(complaint));
        }
        self.complaint_in -= 1;
    }

    /// A peer says what is wrong with it.
    pub(super) fn handle_complaint(
        &mut self,
        now: Time,
        sender: &Sender,
        complaint: Complaint,
    ) -> Result<(), Rejection> {
        let timeout = self.config.timeout;
        let peer = self
            .peers
            .get_mut(&sender.id)
            .filter(|peer| peer.identity.incarnation == sender.incarnation && peer.is_heard(now, timeout));
        let Some(peer) = peer else {
            return Err(Rejection::Unproven { name: sender.name.to_string() });
        };
        // One that a later one has overtaken on the way says nothing new.
        if peer.complaint.as_ref().is_none_or(|(sequence, _)| *sequence < sender.sequence) {
            peer.complaint = Some((sender.sequence, complaint));
        }
        Ok(())
    }
}
