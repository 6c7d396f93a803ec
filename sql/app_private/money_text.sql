create or replace function app_private.money_text(amount numeric, currency text) returns text
language sql
immutable
parallel safe
return to_char(amount, 'FM999,999,999,999,990.00') || ' ' || currency;

comment on function app_private.money_text is 'An amount for a person: thousands, two decimals, currency.';

grant execute on function app_private.money_text to holdfast_system;
