create or replace function app_private.regex_matches(value text, pattern text) returns boolean
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return value ~ pattern;
exception when invalid_regular_expression then
  return null;
end
$$;

comment on function app_private.regex_matches is
  'Whether a text matches a POSIX regular expression anywhere; null when the pattern is none.';

grant execute on function app_private.regex_matches to holdfast_system;
