-- People who log in by IAM tokens instead of a password (rds_iam). Run once, as the owner role.

ALTER TABLE postern.account
  ADD COLUMN iam boolean NOT NULL DEFAULT false,
  -- The time of the event that decided between token and password: an earlier one that comes later does not decide again.
  ADD COLUMN login_asked_at timestamptz;
