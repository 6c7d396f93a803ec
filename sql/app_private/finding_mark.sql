create or replace function app_private.finding_mark(slots jsonb, remediation_code text) returns text
language sql
immutable
parallel safe
return pg_catalog.md5(slots::text || remediation_code);

comment on function app_private.finding_mark is
  'What words about a finding stand on: they hold while its mark is that of the candidate which the model was shown.';
