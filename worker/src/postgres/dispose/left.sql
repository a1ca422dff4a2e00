-- What of the role $1 is still here, with who gave it. $2: also what belongs to the whole server.
SELECT CASE
    WHEN d.deptype = 'r' THEN format('%s names the role', object)
    WHEN a.grantor IS NOT NULL THEN format('%s on %s, given by "%s"', a.privileges, object, a.grantor)
    WHEN d.deptype = 'i' THEN format('initial privileges on %s', object)
    WHEN d.deptype = 'a' AND d.classid <> 'pg_auth_members'::regclass THEN format('privileges on %s', object)
    ELSE object END AS object
FROM pg_shdepend d
CROSS JOIN LATERAL (SELECT coalesce(pg_describe_object(d.classid, d.objid, d.objsubid), format('object %s', d.objid)) AS object) AS described
LEFT JOIN LATERAL (
  SELECT g.rolname AS grantor, string_agg(DISTINCT acl.privilege_type, ', ' ORDER BY acl.privilege_type) AS privileges
  FROM aclexplode(CASE d.classid
    WHEN 'pg_class'::regclass THEN CASE d.objsubid WHEN 0 THEN (SELECT relacl FROM pg_class WHERE oid = d.objid)
      ELSE (SELECT attacl FROM pg_attribute WHERE attrelid = d.objid AND attnum = d.objsubid) END
    WHEN 'pg_proc'::regclass THEN (SELECT proacl FROM pg_proc WHERE oid = d.objid)
    WHEN 'pg_namespace'::regclass THEN (SELECT nspacl FROM pg_namespace WHERE oid = d.objid)
    WHEN 'pg_type'::regclass THEN (SELECT typacl FROM pg_type WHERE oid = d.objid)
    WHEN 'pg_language'::regclass THEN (SELECT lanacl FROM pg_language WHERE oid = d.objid)
    WHEN 'pg_largeobject'::regclass THEN (SELECT lomacl FROM pg_largeobject_metadata WHERE oid = d.objid)
    WHEN 'pg_foreign_data_wrapper'::regclass THEN (SELECT fdwacl FROM pg_foreign_data_wrapper WHERE oid = d.objid)
    WHEN 'pg_foreign_server'::regclass THEN (SELECT srvacl FROM pg_foreign_server WHERE oid = d.objid)
    WHEN 'pg_default_acl'::regclass THEN (SELECT defaclacl FROM pg_default_acl WHERE oid = d.objid)
    WHEN 'pg_database'::regclass THEN (SELECT datacl FROM pg_database WHERE oid = d.objid)
    WHEN 'pg_tablespace'::regclass THEN (SELECT spcacl FROM pg_tablespace WHERE oid = d.objid)
    /* parameter */
    END) acl JOIN pg_roles g ON g.oid = acl.grantor
  WHERE d.deptype = 'a' AND acl.grantee = $1 GROUP BY g.rolname) AS a ON true
WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1
  AND (d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR $2 AND d.dbid = 0)
ORDER BY d.deptype <> 'o', 1
