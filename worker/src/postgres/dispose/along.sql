-- What of others DROP OWNED would drop along with what the role $1 owns here, without an error: partitions, and whatever else
-- depends on it automatically. Indexes, statistics and the like are part of their table.
WITH RECURSIVE here AS (SELECT oid FROM pg_database WHERE datname = current_database()),
gone (classid, objid, parentclass, parent) AS (
  SELECT d.classid, d.objid, 0::oid, 0::oid FROM pg_shdepend d JOIN here ON d.dbid = here.oid
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'o'
  UNION SELECT x.classid, x.objid, g.classid, g.objid FROM gone g CROSS JOIN LATERAL (
      SELECT d.classid, d.objid FROM pg_depend d
        WHERE d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype NOT IN ('n', 'e')
      UNION ALL SELECT 'pg_class'::regclass, i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE g.classid = 'pg_class'::regclass AND i.inhparent = g.objid AND c.relispartition) AS x (classid, objid)),
theirs AS (
  SELECT g.*, o.owner, c.relispartition FROM gone g
  LEFT JOIN pg_class c ON g.classid = 'pg_class'::regclass AND c.oid = g.objid
  CROSS JOIN LATERAL (SELECT CASE
      WHEN c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') THEN c.relowner
      WHEN g.classid = 'pg_proc'::regclass THEN (SELECT proowner FROM pg_proc WHERE oid = g.objid)
      WHEN g.classid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_statistic_ext'::regclass) THEN (
        SELECT d.refobjid FROM pg_shdepend d JOIN here ON d.dbid = here.oid
        WHERE d.classid = g.classid AND d.objid = g.objid AND d.objsubid = 0 AND d.deptype = 'o') END AS owner) AS o
  WHERE o.owner <> $1)
SELECT DISTINCT format(CASE WHEN relispartition AND parentclass = 'pg_class'::regclass THEN '%s, of "%s", is a partition of %s'
                            ELSE '%s, of "%s", would be dropped with %s' END,
    pg_describe_object(classid, objid, 0), pg_get_userbyid(owner),
    CASE WHEN relispartition AND parentclass = 'pg_class'::regclass THEN parent::regclass::text
         ELSE pg_describe_object(parentclass, parent, 0) END) AS object
FROM theirs ORDER BY 1
