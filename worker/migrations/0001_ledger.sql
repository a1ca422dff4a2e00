-- The ledger: what Postern did and what it may undo, kept in the target itself so that effect and record commit
-- together. Run once, as the owner role, with search_path = pg_catalog. PUBLIC has nothing here.

CREATE TABLE postern.fact (
  one            boolean PRIMARY KEY DEFAULT true CHECK (one),
  ledger_id      uuid NOT NULL DEFAULT gen_random_uuid(),
  schema_version integer NOT NULL,
  -- Events asked at or before this moment are no longer known; grants and rotations that old are refused.
  pruned_to      timestamptz NOT NULL DEFAULT '-infinity'
);

-- One row a person, over all integrations of this ledger. The role's OID, not its name, says which role is meant.
CREATE TABLE postern.account (
  principal           text PRIMARY KEY,
  role_name           text UNIQUE,
  role_oid            oid UNIQUE,
  created_at          timestamptz,
  last_grant_ended_at timestamptz,
  generation          integer NOT NULL DEFAULT 0,
  password_set_at     timestamptz,
  password_asked_at   timestamptz,
  rotation_due        boolean NOT NULL DEFAULT false
);

-- What is known of a grant_id for good, by digest: its highest revision, and why that ended. Locked by every event
-- that names the grant_id, so that a revoke and a grant that has not arrived yet meet here.
CREATE TABLE postern.grant_key (
  integration text NOT NULL,
  digest      bytea NOT NULL,
  principal   text,
  revision    integer NOT NULL DEFAULT 0,
  ending      text CHECK (ending IN ('expired', 'swept', 'revoked')),
  PRIMARY KEY (integration, digest)
);

-- Grants as they were last opened. ending is null while one is active.
CREATE TABLE postern.access_grant (
  integration text NOT NULL,
  grant_id    text NOT NULL,
  revision    integer NOT NULL,
  principal   text NOT NULL REFERENCES postern.account,
  permissions jsonb NOT NULL,
  bundles     bigint[] NOT NULL,
  expires_at  timestamptz,
  asked_at    timestamptz NOT NULL,
  opened_at   timestamptz NOT NULL DEFAULT now(),
  ending      text CHECK (ending IN ('expired', 'swept', 'revoked')),
  ended_at    timestamptz,
  -- The wide revoke that ended it, as source and id.
  ended_by    text,
  PRIMARY KEY (integration, grant_id)
);
CREATE INDEX access_grant_principal ON postern.access_grant (principal) WHERE ending IS NULL;
CREATE INDEX access_grant_expiry ON postern.access_grant (expires_at) WHERE ending IS NULL;
CREATE INDEX access_grant_bundles ON postern.access_grant USING gin (bundles) WHERE ending IS NULL;
CREATE INDEX access_grant_ended_by ON postern.access_grant (integration, ended_by) WHERE ended_by IS NOT NULL;

-- Wide revokes: every revision asked at or before asked_at is over. principal '' means everyone.
-- ROW SHARE on this table is the integration lock of ordinary events, EXCLUSIVE that of a revoke of all.
CREATE TABLE postern.watermark (
  integration text NOT NULL,
  principal   text NOT NULL DEFAULT '',
  asked_at    timestamptz NOT NULL,
  PRIMARY KEY (integration, principal)
);

-- The lock that lets one worker at a time change privileges in a database: row locks reach across databases,
-- and nobody without rights on this schema can take them, which is not so of advisory locks.
CREATE TABLE postern.bundle_database (
  database_oid oid PRIMARY KEY
);

-- One row a bundle role. A row goes making -> ready -> retired and never back.
CREATE TABLE postern.bundle (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  database_oid oid NOT NULL,
  schema_name  text NOT NULL DEFAULT '',
  table_name   text NOT NULL DEFAULT '',
  access       text NOT NULL,
  role_name    text NOT NULL UNIQUE,
  role_oid     oid NOT NULL,
  state        text NOT NULL CHECK (state IN ('making', 'ready', 'retired')),
  -- The newest object of the database when the privileges were last compared.
  mark         bigint NOT NULL DEFAULT 0,
  warnings     jsonb NOT NULL DEFAULT '[]',
  checked_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX bundle_key ON postern.bundle (database_oid, schema_name, table_name, access) WHERE state <> 'retired';

-- One row an event that was carried out. The result is what is published, and never changes once the phase is done.
CREATE TABLE postern.event (
  integration text NOT NULL,
  source      text NOT NULL,
  id          text NOT NULL,
  digest      bytea NOT NULL,
  verb        text NOT NULL,
  principal   text,
  phase       text NOT NULL DEFAULT 'open' CHECK (phase IN ('open', 'working', 'terminating', 'done')),
  claimed_until timestamptz,
  asked_at    timestamptz NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  settled_at  timestamptz,
  result      jsonb,
  PRIMARY KEY (integration, source, id)
);
CREATE INDEX event_settled ON postern.event (settled_at) WHERE phase = 'done';

-- Holds bundle rows against dropping until the caller commits. SQLSTATE PT001: one of them is not ready (any more).
CREATE FUNCTION postern.hold_bundles(ids bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  PERFORM FROM postern.bundle WHERE id = ANY (ids) ORDER BY id FOR SHARE;
  -- A statement of its own: the one that locks reads the past.
  IF (SELECT count(*) FROM postern.bundle b JOIN pg_roles r ON r.oid = b.role_oid WHERE b.id = ANY (ids) AND b.state = 'ready')
     <> cardinality(ids) THEN
    RAISE EXCEPTION 'a bundle is not ready' USING ERRCODE = 'PT001';
  END IF;
END $$;

REVOKE ALL ON FUNCTION postern.hold_bundles(bigint[]) FROM PUBLIC;
