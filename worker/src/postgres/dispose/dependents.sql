-- What of others depends on what the role $1 owns here, so that it cannot be dropped.
WITH owned AS (
  SELECT d.classid, d.objid FROM pg_shdepend d
  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'o'
    AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())),
-- A table's row type stands for the table.
target AS (
  SELECT classid, objid FROM owned
  UNION SELECT 'pg_type'::regclass, t.oid FROM owned o JOIN pg_type t ON o.classid = 'pg_class'::regclass AND t.typrelid = o.objid)
SELECT DISTINCT format('%s depends on %s', pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, 0)) AS object
FROM target o JOIN pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.objid
-- The relation that a rule, default, constraint, trigger, policy, index or column is part of.
CROSS JOIN LATERAL (SELECT CASE d.classid
    WHEN 'pg_class'::regclass THEN coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = d.objid), d.objid)
    WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = d.objid)
    WHEN 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = d.objid)
    WHEN 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = d.objid)
    WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = d.objid)
    WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = d.objid) END AS relation) AS whole
WHERE d.deptype = 'n'
  AND NOT EXISTS (SELECT FROM owned x WHERE x.classid = d.classid AND x.objid = d.objid)
  AND NOT EXISTS (SELECT FROM owned x WHERE x.classid = 'pg_class'::regclass AND x.objid = whole.relation)
  AND NOT EXISTS (SELECT FROM pg_type t JOIN owned x ON x.objid = t.typrelid AND x.classid = 'pg_class'::regclass
                  WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid)
ORDER BY 1
