create or replace function app_private.json_text_fault(schema jsonb, value text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_day    constant text := '\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])';
  v_format constant text := schema ->> 'format';
begin
  if pg_catalog.length(value) < (schema ->> 'minLength')::numeric then
    return pg_catalog.format('has fewer than %s characters', schema ->> 'minLength');
  elsif pg_catalog.length(value) > (schema ->> 'maxLength')::numeric then
    return pg_catalog.format('has more than %s characters', schema ->> 'maxLength');
  elsif v_format = 'uuid' and value !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return 'is no uuid';
  elsif v_format = 'date' and value !~ ('^' || v_day || '$') then
    return 'is no date such as 2026-01-31';
  elsif v_format = 'date-time'
    and value !~* (
      '^' || v_day || 'T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$')
  then
    return 'is no moment such as 2026-01-31T12:00:00Z';
  elsif (case when v_format in ('date', 'date-time') then pg_catalog.substr(value, 9, 2)::integer > extract(
      day from pg_catalog.make_date(greatest(1, pg_catalog.left(value, 4)::integer),
        pg_catalog.substr(value, 6, 2)::integer, 1) + interval '1 month - 1 day') end)
  then
    return 'is a day that its month does not have';
  elsif schema ? 'pattern' and app_private.regex_matches(value, schema ->> 'pattern') is not true then
    return pg_catalog.format('does not match %s', schema ->> 'pattern');
  end if;
  return null;
end
$$;

comment on function app_private.json_text_fault is
  'What is wrong with a text by its schema (minLength, maxLength, format, pattern); null when nothing is.';

grant execute on function app_private.json_text_fault to holdfast_system;
