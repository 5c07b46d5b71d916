BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0001');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('6360097dc42fbec81f80cfaa796f780569e1fbb865452b5570381412c09c83ef',1);
COMMIT;
