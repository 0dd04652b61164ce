CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city INTEGER);
CREATE TABLE sale(id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER, day INTEGER, note TEXT);
BEGIN;
WITH RECURSIVE n(k) AS (VALUES(1) UNION ALL SELECT k + 1 FROM n WHERE k < 2000)
INSERT INTO customer SELECT k, printf('customer %06d', (k * 7919) % 2003), k % 37 FROM n;
WITH RECURSIVE n(k) AS (VALUES(1) UNION ALL SELECT k + 1 FROM n WHERE k < 30000)
INSERT INTO sale SELECT k, (k * 7919) % 2000 + 1, (k * 104729) % 9973, k % 365, hex(k * 40503 % 20011) FROM n;
COMMIT;
CREATE INDEX sale_customer ON sale(customer, day);
CREATE INDEX sale_note ON sale(note);
UPDATE sale SET amount = amount + 1 WHERE day BETWEEN 100 AND 130;
DELETE FROM sale WHERE note LIKE '%31%';
CREATE TABLE result(value INTEGER);
INSERT INTO result SELECT sum(total) FROM
    (SELECT city, sum(amount) * count(DISTINCT day) AS total FROM customer JOIN sale ON sale.customer = customer.id GROUP BY city);
INSERT INTO result SELECT count(*) FROM sale a JOIN sale b ON a.note = b.note AND a.id < b.id;
INSERT INTO result SELECT sum(length(name) * best) FROM
    (SELECT name, (SELECT max(amount) FROM sale WHERE customer = customer.id) AS best FROM customer ORDER BY name LIMIT 700);
INSERT INTO result SELECT sum(running % 1000) FROM
    (SELECT sum(amount) OVER (PARTITION BY customer ORDER BY day, id) AS running FROM sale);
SELECT group_concat(value, '-') FROM result;
