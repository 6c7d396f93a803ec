create or replace view app_private.doctor_checks as
select c.checked, c.asked
from (values
  ('server_version',       'enforces row security everywhere'),
  ('session_row_security', 'is on in this session'),
  ('role_attributes',      'every role is there and is no more than it must be'),
  ('role_memberships',     'who may become whom: as in roles.sql, and nobody else'),
  ('role_settings',        'the logins of the shell start with row_security = off, with timeouts, as agreed'),
  ('parameter_rights',     'no login of the shell may set what is the superuser''s'),
  ('owners',               'the database, the schemas and the tables belong to holdfast_owner'),
  ('row_security_forced',  'every table of tenants binds everybody, its owner too'),
  ('policies',             'none is for everybody'),
  ('table_rights',         'the tenant role reads what is behind the fence, the logins read nothing'),
  ('definer_functions',    'no function from elsewhere lends its owner''s rights'),
  ('schema_rights',        'nobody may make an object'),
  ('database_rights',      'our logins connect, nobody else; no temporary tables'),
  ('lint',                 'no house rule is broken'),
  ('partitions',           'are made beyond this month and the next'),
  ('ticket_keys',          'at least one is in use'),
  ('ticket_key_end',       'a key without an end is in use'),
  ('ticket_binding',       'every ticket is good for one backend'),
  -- Here a superuser must have helped, with superuser.sql: without, tenants are apart, but not as far.
  ('signals',              'no session ends another'),
  ('activity',             'no session watches another'),
  ('volume',               'live counters are for people and monitors'),
  ('advisory_locks',       'are the owner''s'),
  ('large_objects',        'are nobody''s'),
  ('wal_messages',         'are nobody''s'),
  ('exported_snapshots',   'are for the backup'),
  ('server_files',         'are out of reach'),
  ('languages',            'only owners write functions'),
  ('extensions',           'none that PostgreSQL does not trust is for everybody'),
  ('ddl',                  'the login of tenants'' sessions is refused before it asks for a lock'),
  ('temporary_files',      'a session of that login cannot fill the disk'),
  ('logged_parameters',    'no ticket comes into the server''s log'),
  ('logged_plans',         'auto_explain is not loaded here, or is off for the logins'),
  ('backup_role',          'reads all and writes nothing'),
  ('replicator_role',      'streams, and is no more')
) as c (checked, asked);

comment on view app_private.doctor_checks is
  'What ops.doctor() asks, one row for each check, and what is true when its answer is ok.';

grant select on app_private.doctor_checks to holdfast_ops;
