-- What was just given to the role $1 and could run, or read, with its rights. Asked in the transaction of the REASSIGN
-- OWNED, whose locks are held: what is judged is what would be committed.
WITH RECURSIVE heir AS (SELECT oid FROM pg_roles WHERE rolname = $1),
-- REASSIGN OWNED rewrites these rows, so this transaction's number is on them and on no others.
moved AS (
  SELECT d.classid, d.objid FROM pg_shdepend d JOIN heir ON d.refobjid = heir.oid
  WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND d.xmin = pg_current_xact_id()::xid),
-- The heir's relations: those that moved, and its own, which may use a function that moved.
relation AS (
  SELECT c.oid, c.relkind, c.relacl, c.reloptions, m.objid IS NOT NULL AS moved
  FROM pg_class c JOIN heir ON c.relowner = heir.oid LEFT JOIN moved m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid),
moved_type AS (
  SELECT t.oid FROM pg_type t JOIN moved m
    ON m.classid = 'pg_type'::regclass AND m.objid = t.oid OR m.classid = 'pg_class'::regclass AND m.objid = t.typrelid),
-- What moved, with what it is made of: dependencies are recorded on these.
part AS (
  SELECT classid, objid FROM moved
  UNION SELECT 'pg_type'::regclass, oid FROM moved_type
  UNION SELECT 'pg_class'::regclass, t.typrelid FROM pg_type t JOIN moved_type m ON m.oid = t.oid WHERE t.typrelid <> 0
  UNION SELECT x.classid, x.objid FROM relation r CROSS JOIN LATERAL (
      SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = r.oid
      UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a WHERE a.adrelid = r.oid
      UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = r.oid
      UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p WHERE p.polrelid = r.oid
      UNION ALL SELECT 'pg_trigger'::regclass, g.oid FROM pg_trigger g WHERE g.tgrelid = r.oid AND NOT g.tgisinternal
      UNION ALL SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w WHERE w.ev_class = r.oid
      UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s WHERE s.stxrelid = r.oid) AS x (classid, objid)
    WHERE r.moved
  UNION SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN moved_type t ON t.oid = k.contypid),
-- Who is not the heir could do more to it by what it uses of his: new checks for a domain, a cast, another query for a view.
trusted AS (SELECT oid FROM heir UNION SELECT oid FROM pg_roles WHERE rolsuper),
-- An index or a row type has no owner of its own in pg_shdepend.
strange AS (
  SELECT d.classid, d.objid FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND d.refobjid NOT IN (SELECT oid FROM trusted)
      AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION SELECT 'pg_class'::regclass, c.oid FROM pg_class c WHERE c.relowner NOT IN (SELECT oid FROM trusted)
  UNION SELECT 'pg_type'::regclass, t.oid FROM pg_type t WHERE t.typowner NOT IN (SELECT oid FROM trusted)),
-- A schema or extension only holds objects.
use AS (
  SELECT p.classid, p.objid, d.refclassid, d.refobjid FROM part p JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid
  WHERE d.refclassid NOT IN ('pg_namespace'::regclass, 'pg_extension'::regclass)),
-- Types of the columns and expressions, and what those are made of: a domain's checks run where the domain is used.
used_type (oid) AS (
  SELECT oid FROM moved_type
  UNION SELECT a.atttypid FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid WHERE r.moved AND a.attnum > 0 AND NOT a.attisdropped
  UNION SELECT refobjid FROM use WHERE refclassid = 'pg_type'::regclass
  UNION SELECT part.oid FROM used_type u JOIN pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (
      SELECT t.typbasetype UNION ALL SELECT t.typelem
      UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid
      UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0) AS part (oid)
    WHERE part.oid <> 0),
-- Expressions and queries as the catalog keeps them.
body AS (
  SELECT 'pg_attrdef'::regclass::oid AS classid, d.oid AS objid, r.moved, d.adbin::text AS tree
    FROM pg_attrdef d JOIN relation r ON r.oid = d.adrelid
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid, r.moved, k.conbin::text FROM pg_constraint k JOIN relation r ON r.oid = k.conrelid
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid, true, k.conbin::text FROM pg_constraint k JOIN used_type u ON u.oid = k.contypid
  UNION ALL SELECT 'pg_type'::regclass, t.oid, true, t.typdefaultbin::text FROM pg_type t JOIN used_type u ON u.oid = t.oid
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, r.moved, concat(p.polqual::text, p.polwithcheck::text)
    FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL SELECT 'pg_trigger'::regclass, g.oid, r.moved, g.tgqual::text FROM pg_trigger g JOIN relation r ON r.oid = g.tgrelid
  UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, r.moved, concat(i.indexprs::text, i.indpred::text)
    FROM pg_index i JOIN relation r ON r.oid = i.indrelid
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, r.moved, s.stxexprs::text FROM pg_statistic_ext s JOIN relation r ON r.oid = s.stxrelid
  UNION ALL SELECT 'pg_class'::regclass, p.partrelid, r.moved, p.partexprs::text
    FROM pg_partitioned_table p JOIN relation r ON r.oid = p.partrelid
  UNION ALL SELECT 'pg_class'::regclass, w.ev_class, r.moved, w.ev_action::text
    FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class WHERE w.rulename = '_RETURN'),
call AS (
  SELECT b.classid, b.objid, b.moved, (regexp_matches(b.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g'))[1]::oid AS function
    FROM body b
  UNION SELECT 'pg_cast'::regclass, c.oid, true, c.castfunc FROM pg_cast c
    WHERE c.castsource IN (SELECT oid FROM moved_type) OR c.casttarget IN (SELECT oid FROM moved_type)
  UNION SELECT 'pg_type'::regclass, g.rngtypid, true, f.oid FROM pg_range g JOIN used_type u ON u.oid = g.rngtypid
    CROSS JOIN LATERAL (SELECT g.rngcanonical::oid UNION SELECT g.rngsubdiff::oid) AS f (oid)),
-- An operator or cast that the server or a superuser made over a function in C. Not every operator: anybody may make one
-- over any function, and not every function that is immutable: array_in and the like run the checks of a domain that
-- they are given as a number or a name.
plain (oid) AS (
  SELECT o.oprcode::oid FROM pg_operator o JOIN pg_roles r ON r.oid = o.oprowner
    WHERE o.oid < 16384 OR r.rolsuper AND o.oprcode::oid >= 16384
  UNION SELECT c.castfunc FROM pg_cast c WHERE c.oid < 16384
  UNION SELECT f.oid FROM pg_range g CROSS JOIN LATERAL (VALUES (g.rngcanonical::oid), (g.rngsubdiff::oid)) AS f (oid) WHERE g.rngtypid < 16384),
-- The server's own functions (OIDs below 16384 are given by initdb) that run nothing by a name, a number or a text, and
-- look up no casts as to_json does. What is not listed is not known to be harmless.
harmless AS (
  SELECT p.oid FROM pg_proc p WHERE p.oid < 16384 AND p.pronamespace = 'pg_catalog'::regnamespace AND (
      p.oid IN (SELECT oid FROM plain)
      OR p.prokind IN ('a', 'w') AND p.proname !~ 'json|xml'
      OR p.proname IN ('nextval', 'currval', 'lastval', 'random', 'random_normal', 'gen_random_uuid', 'uuidv4', 'uuidv7',
        'now', 'clock_timestamp', 'statement_timestamp', 'transaction_timestamp', 'timeofday', 'timezone', 'age', 'date_trunc', 'date_part',
        'date_bin', 'extract', 'isfinite', 'make_date', 'make_time', 'make_timestamp', 'make_timestamptz', 'make_interval', 'to_char', 'to_date',
        'to_number', 'to_timestamp', 'justify_days', 'justify_hours', 'justify_interval',
        'lower', 'upper', 'initcap', 'length', 'char_length', 'character_length', 'octet_length', 'bit_length', 'btrim', 'ltrim', 'rtrim',
        'substr', 'substring', 'left', 'right', 'replace', 'translate', 'repeat', 'reverse', 'strpos', 'position', 'split_part', 'lpad', 'rpad',
        'starts_with', 'concat', 'concat_ws', 'format', 'ascii', 'chr', 'md5', 'sha224', 'sha256', 'sha384', 'sha512', 'encode', 'decode',
        'regexp_match', 'regexp_matches', 'regexp_replace', 'regexp_like', 'regexp_count', 'regexp_substr', 'like_escape', 'similar_to_escape',
        'abs', 'ceil', 'ceiling', 'floor', 'round', 'trunc', 'sign', 'mod', 'div', 'power', 'sqrt', 'exp', 'ln', 'log', 'width_bucket',
        'array_length', 'array_position', 'array_to_string', 'string_to_array', 'cardinality', 'unnest', 'generate_series', 'isempty',
        'json_typeof', 'jsonb_typeof', 'json_array_length', 'jsonb_array_length', 'num_nulls', 'num_nonnulls',
        'to_tsvector', 'to_tsquery', 'plainto_tsquery', 'websearch_to_tsquery', 'setweight', 'int4range', 'int8range', 'numrange', 'daterange',
        'tsrange', 'tstzrange'))
  UNION SELECT p.oid FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner JOIN pg_language l ON l.oid = p.prolang
    WHERE o.rolsuper AND l.lanname IN ('c', 'internal') AND (p.oid >= 16384 AND p.provolatile = 'i' AND p.oid IN (SELECT oid FROM plain)
      -- CREATE TYPE AS RANGE makes these.
      OR p.prosrc IN ('range_constructor2', 'range_constructor3', 'multirange_constructor0', 'multirange_constructor1', 'multirange_constructor2')
        AND l.lanname = 'internal'
      OR EXISTS (
      SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'uuid-ossp'))),
-- Object, and what is wrong with it.
danger (object, why) AS (
  SELECT format('%s of %s', pg_describe_object('pg_proc'::regclass, c.function, 0), pg_describe_object(c.classid, c.objid, 0)), 'would run as'
    FROM call c JOIN pg_proc p ON p.oid = c.function
    WHERE c.function NOT IN (SELECT oid FROM harmless)
      AND (c.moved OR EXISTS (SELECT FROM moved m WHERE m.classid = 'pg_proc'::regclass AND m.objid = c.function))
  UNION SELECT format('%s of %s', pg_describe_object(u.refclassid, u.refobjid, 0), pg_describe_object(u.classid, u.objid, 0)),
      'belongs to somebody else, who could make it run as'
    FROM use u JOIN strange s ON s.classid = u.refclassid AND s.objid = u.refobjid
  UNION SELECT pg_describe_object(s.classid, s.objid, 0), 'is used, belongs to somebody else, and could be made to run as'
    FROM used_type u JOIN strange s ON s.classid = 'pg_type'::regclass AND s.objid = u.oid
    WHERE NOT EXISTS (SELECT FROM use x WHERE x.refclassid = s.classid AND x.refobjid = s.objid)
  UNION SELECT format('%s of %s', pg_describe_object('pg_proc'::regclass, g.tgfoid, 0), pg_describe_object('pg_trigger'::regclass, g.oid, 0)),
      'would run as'
    FROM pg_trigger g LEFT JOIN relation r ON r.oid = g.tgrelid
    WHERE g.tgfoid >= 16384
      AND (r.moved OR EXISTS (SELECT FROM moved m WHERE m.classid = 'pg_proc'::regclass AND m.objid = g.tgfoid))
  UNION SELECT pg_describe_object(m.classid, m.objid, 0) || CASE WHEN p.prosecdef THEN ', SECURITY DEFINER' ELSE ', for triggers' END, 'would run as'
    FROM moved m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    WHERE p.prosecdef OR p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype)
        AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgfoid = p.oid)
  UNION SELECT pg_describe_object('pg_rewrite'::regclass, w.oid, 0), 'would act with the rights of'
    FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class WHERE r.moved AND w.rulename <> '_RETURN'
  -- A view reads with its owner's rights. Only what everybody may read, or the heir may not, is nothing new.
  UNION SELECT format('%s on %s', pg_describe_object('pg_class'::regclass, r.oid, 0), pg_describe_object('pg_class'::regclass, d.refobjid, 0)),
      'would be used with the rights of'
    FROM relation r JOIN heir ON true JOIN pg_rewrite w ON w.ev_class = r.oid JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
    WHERE r.moved AND r.relkind IN ('v', 'm') AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.oid
      AND NOT EXISTS (SELECT FROM moved m WHERE m.classid = 'pg_class'::regclass AND m.objid = d.refobjid)
      AND NOT EXISTS (SELECT FROM strange s WHERE s.classid = 'pg_class'::regclass AND s.objid = d.refobjid)
      AND NOT EXISTS (SELECT FROM pg_options_to_table(r.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
      -- The rows that policies show are another matter for each role.
      AND CASE WHEN has_table_privilege('public', d.refobjid, 'SELECT')
                 AND NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = d.refobjid) THEN has_table_privilege(heir.oid, d.refobjid, 'INSERT, UPDATE, DELETE')
               ELSE has_any_column_privilege(heir.oid, d.refobjid, 'SELECT, INSERT, UPDATE') OR has_table_privilege(heir.oid, d.refobjid, 'DELETE') END
  -- Who may make triggers on a table, or foreign keys to it, makes its owner run them: foreign keys act as the owner, and
  -- compare with the other table's types by way of their casts.
  UNION SELECT format('%s on %s for %s', a.privilege_type, pg_describe_object('pg_class'::regclass, r.oid, acl.attnum),
      coalesce(quote_ident(g.rolname), 'PUBLIC')), 'would let others run functions as'
    FROM relation r JOIN heir ON true CROSS JOIN LATERAL (
        SELECT 0 AS attnum, r.relacl AS acl
        UNION ALL SELECT c.attnum, c.attacl FROM pg_attribute c WHERE c.attrelid = r.oid AND c.attacl IS NOT NULL) AS acl
      CROSS JOIN LATERAL aclexplode(acl.acl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE r.moved AND a.privilege_type IN ('TRIGGER', 'REFERENCES') AND a.grantee <> heir.oid
  UNION SELECT pg_describe_object('pg_constraint'::regclass, k.oid, 0), 'belongs to somebody else, and would run functions as'
    FROM pg_constraint k JOIN relation r ON r.oid = k.confrelid JOIN pg_class c ON c.oid = k.conrelid JOIN heir ON true
    WHERE r.moved AND k.contype = 'f' AND c.relowner <> heir.oid
  UNION SELECT format('%s, part of %s', pg_describe_object('pg_class'::regclass, i.inhrelid, 0), pg_describe_object('pg_class'::regclass, i.inhparent, 0)),
      'belongs in part to somebody else, whose triggers would run as'
    FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid JOIN heir ON true
    WHERE p.relkind IN ('r', 'p', 'f') AND p.relowner <> c.relowner
      AND EXISTS (SELECT FROM relation r WHERE r.moved AND r.oid IN (p.oid, c.oid))
  -- What is not known to be harmless: event triggers, subscriptions, languages, foreign data wrappers, whatever comes.
  UNION SELECT pg_describe_object(m.classid, m.objid, 0), 'could run as' FROM moved m
    WHERE m.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass, 'pg_largeobject'::regclass,
      'pg_operator'::regclass, 'pg_collation'::regclass, 'pg_conversion'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass,
      'pg_publication'::regclass, 'pg_statistic_ext'::regclass, 'pg_foreign_server'::regclass, 'pg_extension'::regclass,
      'pg_database'::regclass, 'pg_tablespace'::regclass))
SELECT format('%s: %s "%s"', object, why, $1) AS object FROM danger ORDER BY 1
