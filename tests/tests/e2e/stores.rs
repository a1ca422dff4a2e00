//! Secret stores: one suite, which every store passes on its own server.

mod aws;
mod suite;
mod vault;

/// A test for each part of the suite, on the store that `$start` makes.
macro_rules! conformance {
    ($start:expr) => {
        #[tokio::test]
        async fn reads_what_is_there_and_says_what_is_wrong() -> anyhow::Result<()> {
            crate::stores::suite::reads_what_is_there_and_says_what_is_wrong(&$start.await?).await
        }

        #[tokio::test]
        async fn a_slow_store_or_none_delays_its_own_events_only() -> anyhow::Result<()> {
            crate::stores::suite::a_slow_store_or_none_delays_its_own_events_only(&$start.await?).await
        }

        #[tokio::test]
        async fn a_secret_rotated_under_our_feet_costs_no_event() -> anyhow::Result<()> {
            crate::stores::suite::a_secret_rotated_under_our_feet_costs_no_event(&$start.await?).await
        }

        #[tokio::test]
        async fn a_connectors_password_is_staged_beside_the_current_one() -> anyhow::Result<()> {
            crate::stores::suite::a_connectors_password_is_staged_beside_the_current_one(&$start.await?).await
        }
    };
}
/// For stores whose secrets carry labels.
macro_rules! delivery {
    ($start:expr) => {
        #[tokio::test]
        async fn only_what_is_ours_is_overwritten_or_deleted() -> anyhow::Result<()> {
            crate::stores::suite::only_what_is_ours_is_overwritten_or_deleted(&$start.await?).await
        }
    };
}
pub(crate) use {conformance, delivery};
