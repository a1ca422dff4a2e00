-- A role's comment ends with a seal over the role's OID and whom it is for. Only who can read the ledger can make one. So
-- when the ledger was restored from a backup, roles that it no longer knows are told from those that somebody labelled.

ALTER TABLE postern.fact ADD COLUMN seal uuid NOT NULL DEFAULT gen_random_uuid();

-- The comment of a role. kind: person, bundle.
CREATE FUNCTION postern.role_mark(role_oid oid, kind text, whom text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT format('postern %s: %s [%s %s]', ledger_id, whom, kind,
                left(encode(sha256(convert_to(concat_ws(' ', seal, role_oid, kind, whom), 'UTF8')), 'hex'), 32))
  FROM postern.fact
$$;

CREATE FUNCTION postern.mark_role(role_name text, kind text, whom text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  EXECUTE format('COMMENT ON ROLE %I IS %L', role_name,
                 postern.role_mark((SELECT oid FROM pg_roles WHERE rolname = role_name), kind, whom));
END $$;

REVOKE ALL ON FUNCTION postern.role_mark(oid, text, text), postern.mark_role(text, text, text) FROM PUBLIC;

-- What the ledger knows already.
DO $$
DECLARE
  known record;
BEGIN
  FOR known IN
    SELECT r.rolname, 'person' AS kind, a.principal AS whom FROM postern.account a JOIN pg_roles r ON r.oid = a.role_oid, postern.fact f
      WHERE starts_with(shobj_description(r.oid, 'pg_authid'), 'postern ' || f.ledger_id || ': ')
    UNION ALL
    SELECT r.rolname, 'bundle', substring(shobj_description(r.oid, 'pg_authid') FROM 47) FROM postern.bundle b
      JOIN pg_roles r ON r.oid = b.role_oid, postern.fact f
      WHERE starts_with(shobj_description(r.oid, 'pg_authid'), 'postern ' || f.ledger_id || ': ')
  LOOP
    BEGIN
      PERFORM postern.mark_role(known.rolname, known.kind, known.whom);
    EXCEPTION WHEN insufficient_privilege THEN
      -- Somebody made it a superuser, or took it from the owner role. It keeps its comment, and Postern knows it all the same.
      NULL;
    END;
  END LOOP;
END $$;
