create or replace function app_private.text_safe(value text) returns text
language sql
immutable
parallel safe
return left(regexp_replace(value, '[[:cntrl:]{};|]+', ' ', 'g'), 80);

comment on function app_private.text_safe is
  'A name from a bill, as the model may see it: no control character, brace or separator, at most 80 characters.';
