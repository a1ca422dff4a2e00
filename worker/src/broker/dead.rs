//! The dead-letter queue, for the command line: list, replay, drop.
//!
//! AMQP cannot look into a queue without taking messages out. Here they are fetched, kept unacknowledged, and requeued by
//! closing the channel; until then other commands do not see them. Every such round raises a message's delivery count,
//! and from RabbitMQ 4.0 a quorum queue drops what exceeds 20 unless a policy says otherwise; so a message that has been
//! looked at often is put back as a copy, whose count starts anew.

use lapin::{Acker, Channel, options::BasicGetOptions};

use super::{
    client::{Client, look_at_queue},
    error::BrokerError,
    link::{acknowledge, answer},
    message::{self, Delivery, Headers},
    topology::short,
};

/// Rounds a message may take part in before it is copied.
const REFRESH_FROM: u64 = 10;

/// A message that was given up.
#[derive(Debug, Clone)]
pub struct DeadMessage {
    /// Names it in [`Selection::Ids`]. Messages the broker itself parked are named by their body: equal bodies, equal names.
    pub id: String,
    /// The routing key it was published with; empty if unknown.
    pub routing_key: String,
    /// AMQP `message_id` of the event.
    pub message_id: Option<String>,
    /// The producer's headers, and Postern's own that say why.
    pub headers: Headers,
    /// The event, byte for byte.
    pub body: Vec<u8>,
    /// The broker parked it at the delivery limit; no worker gave a reason.
    pub by_broker: bool,
}

/// Which dead messages are meant.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// All that are there when the command begins.
    All,
    /// Those with these [`DeadMessage::id`]s.
    Ids(&'a [String]),
}

impl Selection<'_> {
    fn covers(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|wanted| wanted == id),
        }
    }
}

impl Client {
    /// The first `max` dead messages. They stay in the queue.
    pub async fn dead_peek(&self, max: usize) -> Result<Vec<DeadMessage>, BrokerError> {
        let mut round = Round::begin(self).await?;
        let mut seen = Vec::new();
        while seen.len() < max
            && let Some((delivery, acker)) = round.next().await?
        {
            seen.push(dead_message(&delivery));
            round.keep(delivery, acker);
        }
        round.end().await?;
        Ok(seen)
    }

    /// Publishes the selected messages to the work queue again and removes each once that is confirmed. The headers in
    /// `forget` (such as the number of the attempt) and those that say why it was dead are left out. Returns the ids.
    pub async fn dead_replay(&self, selection: Selection<'_>, forget: &[&str]) -> Result<Vec<String>, BrokerError> {
        self.dead_take(selection, |delivery| {
            let mut headers = delivery.copy_headers();
            for key in [message::DEAD_ID, message::DUE, message::LINE, message::PANICS].iter().chain(forget) {
                headers.remove(key);
            }
            Some(headers)
        })
        .await
    }

    /// Removes the selected messages for good. Returns their ids.
    pub async fn dead_drop(&self, selection: Selection<'_>) -> Result<Vec<String>, BrokerError> {
        self.dead_take(selection, |_| None).await
    }

    async fn dead_take(&self, selection: Selection<'_>, copy: impl Fn(&Delivery) -> Option<Headers>) -> Result<Vec<String>, BrokerError> {
        let mut round = Round::begin(self).await?;
        let mut taken = Vec::new();
        while let Some((delivery, acker)) = round.next().await? {
            let id = delivery.dead_id();
            if !selection.covers(&id) {
                round.keep(delivery, acker);
                continue;
            }
            if let Some(headers) = copy(&delivery) {
                let properties = delivery.copy_properties(&headers);
                self.publisher.queue(&self.link, &self.names.work(), &delivery.body, properties).await?;
            }
            acknowledge(&acker).await?;
            taken.push(id);
        }
        round.end().await?;
        Ok(taken)
    }
}

/// One pass over the queue as long as it was at the beginning, so that what comes back meanwhile is not met again.
struct Round<'a> {
    client: &'a Client,
    channel: Channel,
    queue: String,
    left: u32,
    worn: Vec<(Delivery, Acker)>,
}

impl<'a> Round<'a> {
    async fn begin(client: &'a Client) -> Result<Self, BrokerError> {
        let channel = client.link.channel().await?;
        let queue = client.names.dead();
        let (left, _) = look_at_queue(&channel, &queue).await?;
        Ok(Self { client, channel, queue, left, worn: Vec::new() })
    }

    async fn next(&mut self) -> Result<Option<(Delivery, Acker)>, BrokerError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let fetching = self.channel.basic_get(short("queue", &self.queue)?, BasicGetOptions::default());
        let fetched = answer(&format!("fetching from {}", self.queue), fetching)
            .await?
            .map_err(|error| BrokerError::of_channel(error, "fetching from", &self.queue))?;
        Ok(fetched.map(|fetched| Delivery::split(fetched.delivery)))
    }

    fn keep(&mut self, delivery: Delivery, acker: Acker) {
        if delivery.delivery_count >= REFRESH_FROM {
            self.worn.push((delivery, acker));
        }
    }

    /// Copies what is worn and requeues the rest, in its old order.
    async fn end(self) -> Result<(), BrokerError> {
        for (delivery, acker) in &self.worn {
            let properties = delivery.copy_properties(&delivery.headers);
            self.client.publisher.queue(&self.client.link, &self.queue, &delivery.body, properties).await?;
            acknowledge(acker).await?;
        }
        answer("closing a channel", self.channel.close(200, "OK".into()))
            .await?
            .map_err(|error| BrokerError::of_channel(error, "closing", "a channel"))
    }
}

fn dead_message(delivery: &Delivery) -> DeadMessage {
    DeadMessage {
        id: delivery.dead_id(),
        routing_key: delivery.routing_key.clone(),
        message_id: delivery.message_id.clone(),
        by_broker: delivery.headers.get_str(message::DEAD_ID).is_none(),
        headers: delivery.headers.clone(),
        body: delivery.body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_covers_what_it_names() {
        let ids = ["a".to_owned()];
        assert!(Selection::All.covers("b"));
        assert!(Selection::Ids(&ids).covers("a"));
        assert!(!Selection::Ids(&ids).covers("b"));
    }
}
